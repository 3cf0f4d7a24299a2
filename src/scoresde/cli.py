"""The command line: scoresde, or python -m scoresde."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace


def _parser() -> ArgumentParser:
    from jsonargparse import ArgumentParser

    from scoresde import __version__

    parser = ArgumentParser(
        prog="scoresde",
        description="Score, diffusion and flow models under one interface, every claim tested against an exact answer.",
        epilog="Try: scoresde certify --quick",
        version=__version__,
    )
    commands = parser.add_subcommands(required=False, dest="command", title="commands", metavar="COMMAND")
    for name, (summary, parser_of) in {
        "demo": ("train, sample and score four processes on handwritten digits (three minutes on two cores)", _demo),
        "train": ("train a network on a data set, or go on after a stop", _train),
        "sample": ("draw any number of samples from a trained network into files", _sample),
        "certify": ("measure the order of every sampler against exact answers (two minutes)", _certify),
    }.items():
        commands.add_subcommand(name, parser_of(), help=summary)
    return parser


def _demo() -> ArgumentParser:
    from jsonargparse import ArgumentParser

    demo = ArgumentParser(
        description="Train one small network each for VP, sub-VP, VE and rectified flow on scikit-learn's handwritten "
        "digits, sample each by an ODE and an SDE, compute held-out bits/dim, and print one table. "
        "Writes table.csv, samples.png and losses.png.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument("--out", type=Path, default=Path("runs/demo"), metavar="FOLDER", help="where to write")
    demo.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    demo.add_argument("--steps", type=_positive, default=4000, metavar="N", help="training steps of each network")
    demo.add_argument("--quiet", action="store_true", help="no progress bars")
    return demo


def _certify() -> ArgumentParser:
    from jsonargparse import ArgumentParser

    certify = ArgumentParser(
        description="Measure the order of convergence of every built-in sampler on a Gaussian and on a mixture whose "
        "answers are exact, and print one table: end points for ODE samplers (strong), laws for SDE samplers (weak). "
        "Exit code 1 if a measured order is not the declared one. For a sampler of your own: "
        "scoresde.testing.certify(sampler, order).",
    )
    certify.add_argument("--quick", action="store_true", help="a few samplers only (about ten seconds)")
    certify.add_argument("--only", metavar="NAME", help="one sampler, such as DDIM or 'DPMSolver(3)'")
    certify.add_argument("--errors", action="store_true", help="print every error below its row")
    return certify


def _train() -> ArgumentParser:
    from jsonargparse import ArgumentParser

    from scoresde import runs

    train = ArgumentParser(description="Train a network on a data set, or go on where an earlier run left off.")
    train.add_argument("--config", action="config", help="a config.yaml, such as an earlier run's")
    train.add_function_arguments(runs.train, skip={"config"})
    return train


def _sample() -> ArgumentParser:
    from jsonargparse import ArgumentParser

    from scoresde import runs

    sample = ArgumentParser(description="Draw samples into files, or go on where an earlier call left off.")
    sample.add_argument("--config", action="config", help="the options as a YAML file")
    sample.add_function_arguments(runs.sample, as_positional=True)
    return sample


def _positive(text: Any) -> int:
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
    words = _full_names(list(sys.argv[1:] if arguments is None else arguments))
    options = parser.parse_args(words)
    if options.command is None:
        parser.print_help()
        return 0
    run = {"demo": _run_demo, "train": _run_train, "sample": _run_sample, "certify": _run_certify}[options.command]
    try:
        return run(parser, options[options.command])
    except KeyboardInterrupt:
        print(f"\ninterrupted; {GOES_ON.get(options.command, 'nothing was kept')}", file=sys.stderr)
        return 130
    except (ImportError, OSError, ValueError, TypeError) as error:
        print(f"scoresde: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        if type(error).__name__ != "OutOfMemoryError":
            raise
        print(f"scoresde: {error}", file=sys.stderr)
        return 2


GOES_ON = {
    "train": "the same command goes on from the last checkpoint",
    "sample": "the same command goes on from the last file",
}


def _full_names(words: list[str]) -> list[str]:
    """Networks by their own names: --net UNet is --net scoresde.networks.UNet."""
    from scoresde.networks import NETWORKS

    for i, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == "--net" and equals and value in NETWORKS:
            words[i] = f"--net=scoresde.networks.{value}"
        elif i and words[i - 1] == "--net" and word in NETWORKS:
            words[i] = f"scoresde.networks.{word}"
    return words


def _run_train(parser: ArgumentParser, options: Namespace) -> int:
    from scoresde import runs

    plain = options.clone()
    plain.pop("config", None)
    runs.train(**_train().instantiate(plain), config=_train().dump(plain))
    return 0


def _run_sample(parser: ArgumentParser, options: Namespace) -> int:
    from scoresde import runs

    options.pop("config", None)
    paths = runs.sample(**_sample().instantiate(options))
    print(f"{len(paths)} files in {paths[0].parent}" if paths else "nothing to do for this process")
    return 0


def _run_demo(parser: ArgumentParser, options: Namespace) -> int:
    import torch

    try:
        device = None if options.device == "auto" else torch.device(options.device)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        parser.error(f"argument --device: {str(error).splitlines()[0]}")
    from scoresde import demo

    demo.run(options.out, device, options.steps, quiet=options.quiet)
    return 0


def _run_certify(parser: ArgumentParser, options: Namespace) -> int:
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
