"""log_prob beside the likelihoods of other packages, against exact log-densities, in one run.

    python experiments/benchmark_likelihood.py [--targets mixture digits …] [--processes VP EDM …] [--points 256]
        [--device cpu] [--quick] [--out runs/benchmark]

Errors are in nats a dimension, the mean and the largest over the points, in float64. Calls are counted at the network:
"calls" a sample, "with div" those of them that also carried derivatives; "held" is the share of points whose error is
within scoresde's own estimate of it. Settings of scoresde were chosen on the targets marked "tuning"; the others were
not looked at. flow_matching and k-diffusion are optional: see `peers_likelihood`.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
from peers_likelihood import Rival, rivals
from targets_likelihood import LIMIT_S, TARGETS, Problem, differentiated, problem_of

from scoresde import EDM, VE, VP, Cosine, Model, RectifiedFlow, SubVP, ddpm, log_prob

GOALS = {"in 50": (1e-4, 50), "in 150": (1e-6, 150)}
"""A mean error in nats a dimension, and the calls that it may take, on every target."""

OURS = (
    # setting, options of log_prob (the tolerance in nats a dimension), also in the quick run
    ("default", {}, True),
    ("steps=60", {"steps": 60}, False),
    ("steps=90", {"steps": 90}, True),
    ("tolerance 1e-7", {"tolerance": 1e-7}, False),
    ("nodes=32", {"nodes": 32}, False),
    ("one probe", {"divergence": "hutchinson", "probes": 1}, False),
    ("16 probes", {"divergence": "hutchinson", "probes": 16}, False),
)
PROCESSES = {
    "VP": VP(), "SubVP": SubVP(), "VE": VE(), "EDM": EDM(), "Cosine": Cosine(), "RectifiedFlow": RectifiedFlow(),
    "ddpm": ddpm(),
}  # fmt: skip
PREDICTIONS = ("noise", "x0", "score", "v", "velocity")
QUICK = ("VP", "EDM", "RectifiedFlow")


class Calls:
    """Counts samples' calls at the network, and those under derivatives."""

    def __init__(self) -> None:
        self.rows = self.differentiated = 0

    def __call__(self, model: Model, x: Tensor, t: Tensor) -> Tensor:
        self.rows += len(x)
        self.differentiated += len(x) * differentiated(x)
        return model.net(x, t)


@dataclass(frozen=True)
class Measured:
    """What one way costs and how far it is off: errors (B,) in nats a dimension; estimates (B,), if it has any."""

    errors: Tensor
    calls: float
    divergences: float
    seconds: float
    estimates: Tensor | None = None
    converged: float = math.nan
    miscounted: bool = False

    def met(self, goal: tuple[float, int]) -> bool:
        return float(self.errors.mean()) <= goal[0] and round(self.calls) <= goal[1]

    def held(self) -> float:
        """The share of points within three standard errors and the solver's estimate of the truth."""
        return math.nan if self.estimates is None else float((self.errors <= self.estimates).double().mean())


def ours(problem: Problem, model: Model, options: dict[str, Any]) -> Measured:
    """log_prob, with what it says of itself checked against the network's own count."""
    options = {k: v * problem.dim if k == "tolerance" else v for k, v in options.items()}
    count, generator = Calls(), torch.Generator().manual_seed(0)
    begun = time.perf_counter()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "log_prob did not reach")  # `converged` says so
        result = log_prob(model.wrap(count), problem.x, generator=generator, **options)
    seconds, n = time.perf_counter() - begun, len(problem.x)
    calls, divergences = count.rows / n, count.differentiated / n
    told = math.ceil(calls), math.ceil(divergences)
    bound = result.error + 3 * result.standard_error
    return Measured(
        (result.value - problem.truth).abs() / problem.dim, calls, divergences, seconds, bound / problem.dim,
        float(result.converged.double().mean()), told != (result.nfe, result.divergences),
    )  # fmt: skip


def theirs(problem: Problem, rival: Rival) -> Measured:
    problem.calls = problem.divergences = 0
    begun = time.perf_counter()
    problem.until = begun + LIMIT_S
    value = rival.run(problem, torch.Generator().manual_seed(0))
    seconds = time.perf_counter() - begun
    return Measured((value - problem.truth).abs() / problem.dim, problem.calls, problem.divergences, seconds)


HEADER = (
    f"{'':<49}{'mean':>9}{'largest':>9}{'calls':>7}{'with div':>9}{'seconds':>9}{'× ours':>7}{'held':>6}"
    + "".join(f"{goal:>7}" for goal in GOALS)
)


def line(package: str, setting: str, prior: str, cell: Measured, unit: float) -> str:
    goals = "".join(
        f"{('yes' if cell.met(goal) else 'no') if cell.calls <= goal[1] else '·':>7}" for goal in GOALS.values()
    )
    held = "" if cell.estimates is None else f"{cell.held():.0%}"
    return (
        f"{package:<17}{setting:<17}{prior:<15}{cell.errors.mean():>9.1e}{cell.errors.max():>9.1e}{cell.calls:>7.0f}"
        f"{cell.divergences:>9.0f}{cell.seconds:>9.2f}{cell.seconds / unit:>7.1f}{held:>6}{goals}"
    )


def compare(problem: Problem, quick: bool) -> list[dict]:
    """Ours and every rival on one target, printed as they come."""
    print(f"\n{problem.name} ({problem.part}), {problem.dim}-D, {len(problem.x)} points; nats a dimension\n{HEADER}")
    rows: list[dict] = []
    model = problem.target.model(VP())
    small = replace(problem, x=problem.x[:2], truth=problem.truth[:2])
    ours(small, model, {})  # so that the first row does not pay for what is loaded once
    unit, wrong = 0.0, 0

    def report(package: str, setting: str, prior: str, cell: Measured) -> None:
        print(line(package, setting, prior, cell, unit), flush=True)
        keys = {"target": problem.name, "part": problem.part, "dim": problem.dim, "points": len(problem.x)}
        rows.append({
            **keys, "package": package, "setting": setting, "prior": prior, "mean": float(cell.errors.mean()),
            "largest": float(cell.errors.max()), "calls": cell.calls, "divergences": cell.divergences,
            "seconds": cell.seconds, "ratio": cell.seconds / unit, "held": cell.held(),
            "converged": cell.converged, **{name: cell.met(goal) for name, goal in GOALS.items()},
        })  # fmt: skip

    for prior, moments in (("VP moments", model.moments), ("VP none", None)):
        for setting, options, first in OURS:
            if first or not quick:
                cell = ours(problem, replace(model, moments=moments), options)
                unit = unit or cell.seconds
                report("scoresde", setting, prior, cell)
                wrong += cell.miscounted
    if wrong:
        print(f"  {wrong} of these report other calls than the network saw")
    for rival in rivals()[0]:
        if quick and not rival.quick:
            continue
        try:
            report(rival.package, rival.setting, rival.prior, theirs(problem, rival))
        except Exception as error:
            print(f"{rival.package:<17}{rival.setting:<17}{rival.prior:<15}{type(error).__name__}: {error}"[:119])
    return rows


def summary(rows: list[dict]) -> None:
    """Every way over all targets: the worst errors, the most calls, and on how many targets it meets the goals."""
    names = list(dict.fromkeys(row["target"] for row in rows))
    print(f"\n{len(names)} targets: the worst mean, the largest error, the most calls; targets on which a goal is met")
    print(f"{'':<49}{'mean':>9}{'largest':>9}{'calls':>7}" + "".join(f"{goal:>9}" for goal in GOALS))
    for key in dict.fromkeys((row["package"], row["setting"], row["prior"]) for row in rows):
        mine = [row for row in rows if (row["package"], row["setting"], row["prior"]) == key]
        mean, largest, calls = (max(row[k] for row in mine) for k in ("mean", "largest", "calls"))
        met = "".join(f"{sum(row[goal] for row in mine):>4} of {len(names)}" for goal in GOALS)
        missed = f"  {len(names) - len(mine)} not solved" if len(mine) < len(names) else ""
        print(f"{key[0]:<17}{key[1]:<17}{key[2]:<15}{mean:>9.1e}{largest:>9.1e}{calls:>7.0f}{met}{missed}")


def everywhere(
    problems: Sequence[Problem], names: Sequence[str], points: int, predictions: Sequence[str]
) -> list[dict]:
    """The default on every process and prediction: the worst prediction's mean error on each target."""
    rows: list[dict] = []
    for known in (True, False):
        print(
            f"\nscoresde's default on every process, {'with' if known else 'without'} the data's moments: "
            f"the worst mean error by {', '.join(predictions)}; {points} points or half"
        )
        print(f"{'':<14}" + "".join(f"{p.name:>14}" for p in problems) + f"{'largest':>9}{'calls':>9}")
        for name in names:
            cells = []
            for problem in problems:
                n = points if problem.dim <= 32 else max(1, points // 2)
                few = replace(problem, x=problem.x[:n], truth=problem.truth[:n])
                for prediction in predictions:
                    model = few.target.model(PROCESSES[name], prediction)
                    cell = ours(few, model if known else replace(model, moments=None), {})
                    cells.append((problem.name, cell))
                    rows.append({
                        "process": name, "prediction": prediction, "moments": known, "target": problem.name,
                        "mean": float(cell.errors.mean()), "largest": float(cell.errors.max()), "calls": cell.calls,
                    })  # fmt: skip
            worst = [max(float(c.errors.mean()) for n, c in cells if n == p.name) for p in problems]
            calls = [c.calls for _, c in cells]
            print(
                f"{name:<14}" + "".join(f"{w:>14.1e}" for w in worst)
                + f"{max(float(c.errors.max()) for _, c in cells):>9.1e}{f'{min(calls):.0f}–{max(calls):.0f}':>9}",
                flush=True,
            )  # fmt: skip
    return rows


def write(path: Path, rows: list[dict]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="*", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--processes", nargs="*", choices=PROCESSES)
    parser.add_argument("--points", type=int, default=256, help="the most; each target has its own limit")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="few points and settings: under a minute")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    begun = time.perf_counter()
    print(f"torch {torch.__version__}, {options.device}, float64")
    goals = (
        f"{name}: a mean error of at most {error:.0e} within {calls} calls" for name, (error, calls) in GOALS.items()
    )
    print("; ".join(goals))
    for package in rivals()[1]:
        print(f"{package} is not installed: its rows are left out")
    problems = [problem_of(name, 4 if options.quick else options.points, options.device) for name in options.targets]
    rows = [row for problem in problems for row in compare(problem, options.quick)]
    summary(rows)
    write(options.out / "likelihood.csv", rows)
    names = options.processes if options.processes is not None else list(QUICK if options.quick else PROCESSES)
    if names:
        predictions = PREDICTIONS[:1] if options.quick else PREDICTIONS
        write(
            options.out / "likelihood-processes.csv",
            everywhere(problems, names, 2 if options.quick else 8, predictions),
        )
    print(f"\n{time.perf_counter() - begun:.0f} s in all")


if __name__ == "__main__":
    main()
