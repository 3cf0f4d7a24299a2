"""The command line: scoresde, or python -m scoresde."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def _parser() -> argparse.ArgumentParser:
    from scoresde import __version__

    parser = argparse.ArgumentParser(
        prog="scoresde",
        description="Score, diffusion and flow models under one interface, every claim tested against an exact answer.",
        epilog="Try: scoresde certify --quick",
    )
    parser.add_argument("--version", action="version", version=f"scoresde {__version__}")
    commands = parser.add_subparsers(title="commands", dest="command", metavar="COMMAND")
    demo = commands.add_parser(
        "demo",
        help="train, sample and score four processes on handwritten digits (about three minutes on two cores)",
        description="Train one small network each for VP, sub-VP, VE and rectified flow on scikit-learn's handwritten "
        "digits, sample each by an ODE and an SDE, compute held-out bits/dim, and print one table. "
        "Writes table.csv, samples.png and losses.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="FOLDER", help="where to write")
    demo.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    demo.add_argument("--steps", type=_positive, default=4000, metavar="N", help="training steps of each network")
    demo.add_argument("--quiet", action="store_true", help="no progress bars")
    certify = commands.add_parser(
        "certify",
        help="measure the order of convergence of every sampler against exact answers (about two minutes)",
        description="Measure the order of convergence of every built-in sampler on a Gaussian and on a mixture whose "
        "answers are exact, and print one table: end points for ODE samplers (strong), laws for SDE samplers (weak). "
        "Exit code 1 if a measured order is not the declared one. For a sampler of your own: "
        "scoresde.testing.certify(sampler, order).",
    )
    certify.add_argument("--quick", action="store_true", help="a few samplers only (about ten seconds)")
    certify.add_argument("--only", metavar="NAME", help="one sampler, such as DDIM or 'DPMSolver(3)'")
    certify.add_argument("--errors", action="store_true", help="print every error below its row")
    return parser


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of at least 1, got {text!r}")
    return value


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit code: 0 done, 1 a sampler failed, 2 wrong input, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    try:
        return (_certify if options.command == "certify" else _demo)(parser, options)
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was kept", file=sys.stderr)
        return 130
    except (ImportError, OSError) as error:
        print(f"scoresde: {error}", file=sys.stderr)
        return 2


def _demo(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    import torch

    try:
        device = None if options.device == "auto" else torch.device(options.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"argument --device: {str(error).splitlines()[0]}")
    from scoresde import demo

    demo.run(options.out, device, options.steps, quiet=options.quiet)
    return 0


def _certify(parser: argparse.ArgumentParser, options: argparse.Namespace) -> int:
    from tqdm import tqdm

    from scoresde.testing.certificate import table
    from scoresde.testing.claims import chosen

    try:
        rows = chosen(options.only, options.quick)
    except ValueError as error:
        parser.error(f"argument --only: {error}")
    bar = tqdm(rows, unit="sampler", delay=2, leave=False, disable=None)
    certificates = [row.certificate() for row in bar]
    print(table(certificates, errors=options.errors))
    return 0 if all(certificate.passed for certificate in certificates) else 1


if __name__ == "__main__":
    sys.exit(main())
