"""The commands that are no more than a call: demo and certify."""

from __future__ import annotations

from pathlib import Path

from tqdm import tqdm

from scoresde import _checks, runs
from scoresde import demo as digits
from scoresde.testing.certificate import table
from scoresde.testing.claims import chosen


def demo(
    out: Path = Path("runs/demo"), device: str = "auto", steps: int = digits.STEPS, quiet: bool = False,
    config: str = "",
) -> None:  # fmt: skip
    """Train, sample and score four processes on handwritten digits, and print one table.

    One small network each for VP, sub-VP, VE and rectified flow on scikit-learn's digits, sampled by an ODE and an
    SDE, with held-out bits/dim. Writes table.csv, samples.png and losses.png. Three minutes on two cores.

    Args:
        out: the folder to write to.
        device: auto, cpu, cuda, ...
        steps: training steps of each network.
        quiet: no progress bars.
        config: what config.yaml will say.
    """
    _checks.count("steps", steps)
    runs.describe(out, config)
    digits.run(out, runs.device_of(device), steps, quiet=quiet)


def certify(quick: bool = False, only: str | None = None, errors: bool = False, quiet: bool = False) -> int:
    """Measure the order of convergence of every built-in sampler on problems whose answers are exact.

    A Gaussian and a mixture: end points for ODE samplers (strong), laws for SDE samplers (weak). Prints one table, in
    two minutes; the exit code is 1 if a measured order is not the declared one. For a sampler of your own:
    scoresde.testing.certify(sampler, order).

    Args:
        quick: a few samplers only, in ten seconds.
        only: one sampler, such as DDIM or 'DPMSolver(3)'.
        errors: print every error below its row.
        quiet: no progress bar.
    """
    rows = chosen(only, quick)
    bar = tqdm(rows, unit="sampler", delay=2, leave=False, disable=quiet or None)
    certificates = [row.certificate() for row in bar]
    print(table(certificates, errors=errors))
    return 0 if all(certificate.passed for certificate in certificates) else 1
