"""Stochastic samplers on exact mixtures, beside those of diffusers and k-diffusion, in one run.

    python experiments/benchmark_stochastic.py [--targets mixture lattice] [--nfe 10 20 50 100 250 500 1000]
        [--samples 20000] [--seeds 8] [--finalists 4] [--out runs/benchmark]

All draw from the same exact model (DDPM's linear chain), whose calls are counted. Four errors of a set of samples,
as vectors: the mode weights, the mean and the covariance against the exact ones, and the sorted projections against
those of an exact set of the same size, whose length is the sliced Wasserstein distance. The floor of an error is the
root mean square of its length for exact sets. The score is the root mean square of the four, each in units of its
floor: 1 for exact samples. Since an error is bias and chance, E|e|² = |bias|² + floor², and the mean product of the
errors of different seeds is |bias|² without the chance, score² is estimated as 1 + the mean of those products: for
samplers near the floor, √(n − 1) times as sharp as the mean over n seeds (from one seed it is the plain one).

The best of each side is chosen anew for every cell: all are tried with one seed, the best few of them with four
others, and the best of these is then measured with eight fresh ones. The two are "tied" where score² differs by at most
two standard errors of the difference (by the jackknife over seeds, and at least that of exact sets). From 50 calls
on, half of each side, at least 16, drop out after every round. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import peers_stochastic
from exact_mixtures import ERRORS, Exact, Judge, floors, products, score2
from peer import Peer
from peers import quietly

from scoresde import grids, sample, samplers, targets

NFE = (10, 20, 50, 100, 250, 500, 1000)
TARGETS = {"mixture": targets.EXAMPLES["gmm"], "lattice": targets.EXAMPLES["lattice"]}
HALVED_FROM, LEAST_TRIED = 20, 16
"""After a round of this many calls or more, half of each side drops out, but this many stay."""

KEPT = ("DDPM(fixed_small) trailing", "Euler ancestral trailing", "DDPM() own")
"""Well-known ones that stay in, for the figure."""

HEATS = (range(1), range(1, 5))
"""The seeds of the first choice, by all, and of the second, by the finalists."""


GRIDS = {"own": None, "karras": grids.karras, "graded": lambda process, steps: grids.graded(process, steps, SCALE)}
SCALE = 1.3
"""Of the data of both targets, roughly."""

ETAS = (1.0, 0.5, 0.25)

OURS = {
    # name: sampler, grids
    "EulerMaruyama()": (lambda: samplers.EulerMaruyama(), ("own", "karras")),
    "DDPM()": (lambda: samplers.DDPM(), ("own", "graded", "karras")),
    **{
        f"DDIM(eta={eta:g})": (lambda eta=eta: samplers.DDIM(eta), ("own", "karras"))
        for eta in ETAS
    },
    **{
        f"DPMSolverPP({order}, eta={eta:g})": (lambda order=order, eta=eta: samplers.DPMSolverPP(order, eta),
                                               ("own", "graded"))
        for order in (2, 3) for eta in ETAS
    },
    **{
        f"DPMSolverPP(2, eta={eta:g}, singlestep)": (lambda eta=eta: samplers.DPMSolverPP(2, eta, "singlestep"),
                                                     ("own", "graded"))
        for eta in ETAS
    },
    **{
        f"SASolver({order}, {order}, eta={eta:g})": (lambda order=order, eta=eta: samplers.SASolver(order, order, eta),
                                                     ("own", "graded"))
        for order in (2, 3) for eta in ETAS
    },
    "Exponential(noise, 2, eta=1)": (lambda: samplers.Exponential("noise", 2, 1.0), ("own", "graded")),
    **{
        f"Heun(churn={churn:g})": (lambda churn=churn: samplers.Heun(churn=churn), ("own", "karras"))
        for churn in (10.0, 40.0)
    },
    "Restart()": (lambda: samplers.Restart(), ("own",)),
    "Restart(Adams(), repeats=1)": (lambda: samplers.Restart(samplers.Adams(), repeats=1), ("own",)),
    "FlowSDE()": (lambda: samplers.FlowSDE(), ("own",)),
    "FlowSDE(order=2)": (lambda: samplers.FlowSDE(order=2), ("own",)),
}  # fmt: skip


@dataclass(frozen=True)
class Rival:
    """A configuration: its package, its name and run(problem, calls, seed) -> data (n, 2)."""

    package: str
    name: str
    run: Callable[[Exact, int, int], Tensor | None] = field(repr=False)


def steps_within(build: Callable, grid: str, calls: int) -> int:
    """The most steps that keep a sampler's calls at the network within `calls`."""
    exact = Exact(TARGETS["mixture"]())

    def used(steps: int) -> int:
        exact.calls = 0
        sample(exact.model(), (1, 2), build(), steps, GRIDS[grid], generator=torch.Generator().manual_seed(0))
        return exact.calls

    steps = calls
    for _ in range(40):
        spent = used(steps)
        if spent <= calls:
            break
        steps = max(1, min(steps - 1, math.floor(steps * calls / spent) + 1))
    return steps


def ours(name: str, build: Callable, grid: str) -> Rival:
    known: dict[int, int] = {}

    def run(exact: Exact, calls: int, seed: int) -> Tensor:
        steps = known.get(calls) or known.setdefault(calls, steps_within(build, grid, calls))
        exact.calls = 0
        shape = exact.noise.shape if exact.noise is not None else (1, 2)
        generator = torch.Generator().manual_seed(seed)
        return sample(exact.model(), shape, build(), steps, GRIDS[grid], generator=generator)

    return Rival("scoresde", f"{name} {grid}", run)


def theirs(peer: Peer) -> Rival:
    def run(exact: Exact, calls: int, seed: int) -> Tensor | None:
        torch.manual_seed(seed)
        exact.noise = torch.randn_like(exact.noise)
        return quietly(peer, exact, calls)

    return Rival(peer.package, peer.name, run)


def rivals() -> list[Rival]:
    found = []
    for name, (build, kinds) in OURS.items():
        try:
            build()
        except (AttributeError, TypeError):
            continue  # not in this version
        found += [ours(name, build, grid) for grid in kinds]
    return found + [theirs(peer) for peer in peers_stochastic.stochastic_peers()]


@dataclass
class Cell:
    """What n seeds of one configuration gave: the products of their errors, (4, n, n).

    floor: of the errors. chance: the deviation of the mean product of two exact sets' errors.
    """

    rival: Rival
    gram: np.ndarray
    floor: np.ndarray
    chance: float

    @property
    def seeds(self) -> int:
        return self.gram.shape[1]

    @property
    def square(self) -> float:
        return score2(self.gram, self.floor)

    @property
    def score(self) -> float:
        return math.sqrt(max(self.square, 0.0))

    @property
    def spread(self) -> float:
        """The standard error of `square`: by the jackknife, and at least that of exact sets."""
        n = self.seeds
        if n < 3:
            return self.chance * math.sqrt(2 / n)
        least = self.chance * math.sqrt(2 / (n * (n - 1)))
        without = [score2(np.delete(np.delete(self.gram, i, 1), i, 2), self.floor) for i in range(n)]
        return max(least, math.sqrt((n - 1) ** 2 / n) * float(np.std(without, ddof=1)))

    @property
    def parts(self) -> np.ndarray:
        """The root mean squares of the four errors."""
        return np.sqrt(np.trace(self.gram, axis1=1, axis2=2) / self.seeds)


class Bench:
    """One target: what has been measured on it."""

    def __init__(self, name: str, samples: int) -> None:
        self.name, self.samples, self.target = name, samples, TARGETS[name]()
        self.floor, self.chance = floors(self.target, samples)
        self.exact = Exact(self.target)
        self.exact.noise = torch.zeros(samples, 2)

    def errors(self, rival: Rival, calls: int, seed: int) -> list[np.ndarray] | None:
        """The four error vectors; None where it fails or spends more calls."""
        self.exact.calls = 0
        x = rival.run(self.exact, calls, seed)
        if x is None or self.exact.calls > calls:
            return None
        return Judge.of(self.target, self.samples, 500_000 + seed).errors(x.detach().float())

    def cell(self, rival: Rival, calls: int, seeds: range) -> Cell | None:
        errors = []
        for seed in seeds:
            found = self.errors(rival, calls, seed)
            if found is None:
                return None
            errors.append(found)
        return Cell(rival, products(errors), self.floor, self.chance)

    def ranked(self, those: list[Rival], calls: int, seeds: range) -> list[Cell]:
        """Those that do not fail, the best first."""
        cells = (self.cell(rival, calls, seeds) for rival in those)
        return sorted((c for c in cells if c is not None), key=lambda cell: cell.square)


def contest(
    bench: Bench, everyone: list[Rival], nfe: tuple[int, ...], seeds: int, finalists: int
) -> Iterator[list[dict]]:
    """For every number of calls: all are tried, each side's best again, and the best of these measured afresh."""
    hopeful = everyone
    for calls in nfe:
        begun = time.time()
        tried = bench.ranked(hopeful, calls, HEATS[0])
        sides = [[c.rival for c in tried if (c.rival.package == "scoresde") == own] for own in (True, False)]
        best = []
        for side in sides:
            second = bench.ranked(side[:finalists], calls, HEATS[1])
            first = HEATS[1].stop
            best += bench.ranked([c.rival for c in second[:1]], calls, range(first, first + seeds)) or [None]
        report(calls, best[0], best[1], bench.floor, time.time() - begun)
        rows = [row(bench, cell, calls, final=True) for cell in best if cell is not None]
        yield rows + [row(bench, cell, calls, final=False) for cell in tried]
        if calls >= HALVED_FROM:
            stay = [rival for side in sides for rival in side[: max(LEAST_TRIED, len(side) // 2)]]
            hopeful = stay + [r for r in hopeful if r.name in KEPT and r not in stay]


def row(bench: Bench, cell: Cell, calls: int, final: bool) -> dict:
    return {
        "target": bench.name, "nfe": calls, "side": "ours" if cell.rival.package == "scoresde" else "peers",
        "package": cell.rival.package, "sampler": cell.rival.name, "final": int(final), "seeds": cell.seeds,
        "score": cell.score, "score2": cell.square, "score2_se": cell.spread,
        **dict(zip(ERRORS, cell.parts.tolist())),
        **{f"{name} floor": value for name, value in zip(ERRORS, bench.floor.tolist())},
    }  # fmt: skip


def verdict(one: Cell | None, two: Cell | None) -> str:
    """Whether ours is better, worse, or tied within two standard errors of the difference."""
    if one is None or two is None:
        return "alone"
    gap, error = one.square - two.square, math.hypot(one.spread, two.spread)
    return "tied" if abs(gap) <= 2 * error else "ahead" if gap < 0 else "BEHIND"


def report(calls: int, one: Cell | None, two: Cell | None, floor: np.ndarray, seconds: float) -> None:
    for cell, note in ((one, verdict(one, two)), (two, f"{seconds:.0f} s")):
        if cell is not None:
            parts = "".join(f"{v:>8.2f}" for v in cell.parts / floor)
            label = f"{cell.rival.package} {cell.rival.name}"
            print(f"{calls:>5}  {label:<62}{cell.square:>8.2f} ± {cell.spread:.2f}{parts}  {note}", flush=True)


def write(rows: list[dict], path: Path) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", default=list(TARGETS), choices=list(TARGETS))
    parser.add_argument("--nfe", nargs="+", type=int, default=list(NFE))
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--finalists", type=int, default=4)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/benchmark"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    everyone = rivals()
    packages = {r.package: sum(r.package == q.package for q in everyone) for r in everyone}
    print(", ".join(f"{count} configurations of {package}" for package, count in packages.items()))
    rows = []
    for name in options.targets:
        bench = Bench(name, options.samples)
        print(f"\n{name}: {options.samples} samples; floors " + ", ".join(
            f"{error} {value:.2g}" for error, value in zip(ERRORS, bench.floor)
        ))  # fmt: skip
        print(f"{'NFE':>5}  {'best of each side':<62}{'score²':>8}       " + "".join(f"{e[:8]:>8}" for e in ERRORS))
        for found in contest(bench, everyone, tuple(options.nfe), options.seeds, options.finalists):
            rows += found
            write(rows, options.out / "stochastic.csv")
    print(f"\nwritten to {options.out / 'stochastic.csv'}")


if __name__ == "__main__":
    main()
