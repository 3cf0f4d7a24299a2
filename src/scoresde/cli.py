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
        epilog="Try: scoresde demo",
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
    """Run a command; returns the exit code: 0 done, 2 wrong input, 130 interrupted."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 0
    import torch

    try:
        device = None if options.device == "auto" else torch.device(options.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"argument --device: {str(error).splitlines()[0]}")
    try:
        from scoresde import demo

        demo.run(options.out, device, options.steps, quiet=options.quiet)
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was kept", file=sys.stderr)
        return 130
    except (ImportError, OSError) as error:
        print(f"scoresde: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
