"""Stochastic samplers on exact mixtures, beside those of diffusers and k-diffusion, in one run.

    python experiments/benchmark_stochastic.py [--targets mixture lattice] [--nfe 10 20 50 100 250 500 1000]
        [--samples 20000] [--seeds 8] [--finalists 4] [--out runs/benchmark]

All draw from the same exact model (DDPM's linear chain), whose calls are counted. Four errors of a set of samples:
of the mode weights, the mean and the covariance (root sums of squares against the exact ones), and the sliced
Wasserstein distance to an exact set of the same size. Each is divided by its floor, the root mean square of the same
error of exact sets, and the score is the root mean square of the four: 1 is what exact samples score, in expectation
of the square. The best of each side is chosen anew for every cell: all configurations are tried with one seed, the
best few of them with three others, and the best of these is then measured with eight fresh ones. The two are "tied"
where their squares differ by at most two standard errors of the difference, counting a deviation from seed to seed
of at least that of exact sets. Needs the extra `bench`.
"""

from __future__ import annotations

import argparse
import csv
import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))
import peers_stochastic
from benchmark_samplers import lattice, mixture
from peers import Peer, quietly

from scoresde import Model, ddpm, grids, sample, samplers, targets

NFE = (10, 20, 50, 100, 250, 500, 1000)
TARGETS = {"mixture": mixture, "lattice": lattice}
PROCESS = ddpm()
ERRORS = ("weights", "mean", "covariance", "sliced W")
DIRECTIONS = 64
TRIED_UP_TO = 100
"""Beyond this many calls only those are tried that did well at it."""

HEATS = (range(1), range(1, 4))
"""The seeds of the first choice, by all, and of the second, by the finalists."""


GRIDS = {"own": None, "karras": grids.karras, "logsnr": grids.logsnr, "graded": lambda p, n: grids.graded(p, n, 1.2)}

OURS = {
    # name: sampler, grids
    "EulerMaruyama()": (lambda: samplers.EulerMaruyama(), ("own", "karras")),
    "DDPM()": (lambda: samplers.DDPM(), ("own", "graded", "karras")),
    "DDIM(eta=1)": (lambda: samplers.DDIM(eta=1.0), ("own", "karras")),
    "DDIM(eta=0.5)": (lambda: samplers.DDIM(eta=0.5), ("own", "karras")),
    **{
        f"DPMSolverPP({order}, eta={eta:g}{', singlestep' if method != 'multistep' else ''})": (
            lambda order=order, eta=eta, method=method: samplers.DPMSolverPP(order, eta, method),
            ("own", "graded", "karras"),
        )
        for order, method in ((2, "multistep"), (3, "multistep"), (2, "singlestep"))
        for eta in (1.0, 0.5)
    },
    **{
        f"SASolver({order}, {corrector}, eta={eta:g})": (
            lambda order=order, corrector=corrector, eta=eta: samplers.SASolver(order, corrector, eta),
            ("own", "graded", "karras"),
        )
        for order, corrector in ((2, 2), (3, 3))
        for eta in (1.0, 0.5, 0.25)
    },
    **{
        f"Exponential(noise, {order}, eta={eta:g})": (
            lambda order=order, eta=eta: samplers.Exponential("noise", order, eta),
            ("own", "graded"),
        )
        for order in (2,)
        for eta in (1.0, 0.5)
    },
    **{
        f"Heun(churn={churn:g})": (lambda churn=churn: samplers.Heun(churn=churn), ("own", "karras"))
        for churn in (10.0, 40.0)
    },
    "Restart()": (lambda: samplers.Restart(), ("own",)),
    "FlowSDE()": (lambda: samplers.FlowSDE(), ("own",)),
}  # fmt: skip


@dataclass
class Exact:
    """E[a x₀ + b ε | α x₀ + σ ε = x] of a mixture in the plane, in the dtype of x, and the calls of it.

    The exponents are quadratic in x and the means of the components linear, so it takes two matrix products.
    """

    target: targets.GaussianMixture
    calls: int = 0
    top: float = field(init=False)
    noise: Tensor | None = None

    def __post_init__(self) -> None:
        self.top = PROCESS.at("sigma", 1.0) / PROCESS.at("alpha", 1.0)

    @lru_cache(4096)  # noqa: B019
    def _tables(self, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        """(6, K) weights of 1, x, y, x², xy, y² in the exponents; (K, 6) of x̂₀ = c + Gx by components."""
        target = self.target
        variance = alpha**2 * target.variances + sigma**2
        precision = (target.axes / variance[:, None]) @ target.axes.mT
        gain = (target.axes * (alpha * target.variances / variance)[:, None]) @ target.axes.mT
        center = alpha * target.means
        pulled = torch.einsum("kij,kj->ki", precision, center)
        constant = target.weights.log() - 0.5 * (variance.log().sum(1) + (pulled * center).sum(1))
        exponents = torch.stack(
            [constant, pulled[:, 0], pulled[:, 1], -0.5 * precision[:, 0, 0], -precision[:, 0, 1],
             -0.5 * precision[:, 1, 1]]
        )  # fmt: skip
        offset = target.means - torch.einsum("kij,kj->ki", gain, center)
        return exponents, torch.cat([offset, gain.flatten(1)], 1)

    def ask(self, x: Tensor, alpha: float, sigma: float, a: float, b: float) -> Tensor:
        self.calls += 1
        exponents, means = (table.to(x.dtype) for table in self._tables(alpha, sigma))
        one, two = x.unbind(1)
        features = torch.stack([torch.ones_like(one), one, two, one * one, one * two, two * two], 1)
        c0, c1, g00, g01, g10, g11 = ((features @ exponents).softmax(1) @ means).unbind(1)
        clean = torch.stack([c0 + g00 * one + g01 * two, c1 + g10 * one + g11 * two], 1)
        return clean * (a - b * alpha / sigma) + (b / sigma) * x if b else a * clean

    def start(self, alpha: float, sigma: float) -> Tensor:
        """x_T as a state α x₀ + σ ε."""
        assert self.noise is not None
        return self.noise * math.hypot(alpha, sigma)

    def model(self) -> Model:
        def net(x: Tensor, t: Tensor) -> Tensor:
            at = float(t[0])
            return self.ask(x, PROCESS.at("alpha", at), PROCESS.at("sigma", at), 0.0, 1.0)

        return Model(net, PROCESS, moments=self.target.moments)

    __hash__ = object.__hash__


@dataclass(frozen=True)
class Judge:
    """The four errors of a set of samples."""

    target: targets.GaussianMixture
    reference: np.ndarray

    @staticmethod
    def of(target: targets.GaussianMixture, n: int, seed: int) -> Judge:
        exact = target.sample(n, torch.Generator().manual_seed(seed))
        return Judge(target, Judge.projected(exact))

    @staticmethod
    def projected(x: Tensor) -> np.ndarray:
        """The sorted projections on directions spread over the half circle, (DIRECTIONS, n)."""
        angles = np.pi * (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS
        return np.sort(np.stack([np.cos(angles), np.sin(angles)], 1) @ x.numpy().T.astype(np.float64), axis=1)

    def errors(self, x: Tensor) -> np.ndarray:
        mean, covariance = self.target.moments
        share = self.target.responsibilities(x).double().mean(0)
        wide = x.double()
        gap = np.square(self.projected(x) - self.reference).mean()
        return np.array([
            float((share - self.target.weights).norm()),
            float((wide.mean(0) - mean).norm()),
            float((wide.mT.cov() - covariance).norm()),
            math.sqrt(x.shape[1] * gap),
        ])  # fmt: skip


def floors(target: targets.GaussianMixture, n: int, sets: int = 48) -> tuple[np.ndarray, float]:
    """The root mean squares of the errors of exact sets, and the deviation of their score²."""
    found = np.square([
        Judge.of(target, n, 2 * i + 10_000).errors(target.sample(n, torch.Generator().manual_seed(2 * i + 10_001)))
        for i in range(sets)
    ])  # fmt: skip
    return np.sqrt(found.mean(0)), float((found / found.mean(0)).mean(1).std(ddof=1))


@dataclass(frozen=True)
class Rival:
    """A configuration: its package, its name and run(problem, calls, seed) -> data (n, 2)."""

    package: str
    name: str
    run: Callable[[Exact, int, int], Tensor | None] = field(repr=False)


def steps_within(build: Callable, grid: str, calls: int) -> int:
    """The most steps that keep a sampler's calls at the network within `calls`."""
    exact = Exact(mixture())

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
    """The squared scores of one configuration at one number of calls, by seeds, and its mean squared errors."""

    rival: Rival
    least: float
    squares: list[float] = field(default_factory=list)
    parts: list[np.ndarray] = field(default_factory=list)

    @property
    def square(self) -> float:
        return float(np.mean(self.squares))

    @property
    def spread(self) -> float:
        """The standard error of `square`, from a deviation of at least that of exact sets."""
        return max(self.least, float(np.std(self.squares, ddof=min(1, len(self.squares) - 1)))) / math.sqrt(
            len(self.squares)
        )


class Bench:
    """One target: what has been measured on it."""

    def __init__(self, name: str, samples: int) -> None:
        self.name, self.samples, self.target = name, samples, TARGETS[name]()
        self.floor, self.least = floors(self.target, samples)
        self.exact = Exact(self.target)
        self.exact.noise = torch.zeros(samples, 2)

    def measure(self, rival: Rival, calls: int, seed: int) -> tuple[float, np.ndarray] | None:
        """The squared score and the four errors; None where it fails or spends more calls."""
        self.exact.calls = 0
        x = rival.run(self.exact, calls, seed)
        if x is None or self.exact.calls > calls:
            return None
        parts = Judge.of(self.target, self.samples, 500_000 + seed).errors(x.detach().float())
        return float(np.square(parts / self.floor).mean()), parts

    def cell(self, rival: Rival, calls: int, seeds: range) -> Cell | None:
        cell = Cell(rival, self.least)
        for seed in seeds:
            found = self.measure(rival, calls, seed)
            if found is None:
                return None
            cell.squares.append(found[0])
            cell.parts.append(np.square(found[1]))
        return cell

    def ranked(self, those: list[Rival], calls: int, seeds: range) -> list[Cell]:
        """Those that do not fail, the best first."""
        cells = (self.cell(rival, calls, seeds) for rival in those)
        return sorted((c for c in cells if c is not None), key=lambda cell: cell.square)


def contest(bench: Bench, everyone: list[Rival], nfe: tuple[int, ...], seeds: int, finalists: int) -> list[dict]:
    """For every number of calls: all are tried, each side's best again, and the best of these measured afresh."""
    rows, hopeful = [], everyone
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
        rows += [row(bench, cell, calls, final=True) for cell in best if cell is not None]
        rows += [row(bench, cell, calls, final=False) for cell in tried]
        if calls >= TRIED_UP_TO:
            hopeful = [rival for side in sides for rival in side[: 2 * finalists]]
    return rows


def row(bench: Bench, cell: Cell, calls: int, final: bool) -> dict:
    root = np.sqrt(np.mean(cell.parts, 0))
    return {
        "target": bench.name, "nfe": calls, "side": "ours" if cell.rival.package == "scoresde" else "peers",
        "package": cell.rival.package, "sampler": cell.rival.name, "final": int(final), "seeds": len(cell.squares),
        "score": math.sqrt(cell.square), "score2": cell.square, "score2_se": cell.spread,
        **dict(zip(ERRORS, root.tolist())),
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
            parts = "".join(f"{v:>8.2f}" for v in np.sqrt(np.mean(cell.parts, 0)) / floor)
            score = f"{math.sqrt(cell.square):>8.3f} ± {cell.spread / 2 / math.sqrt(cell.square):.3f}"
            label = f"{cell.rival.package} {cell.rival.name}"
            print(f"{calls:>5}  {label:<62}{score}{parts}  {note}", flush=True)


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
        print(f"{'NFE':>5}  {'best of each side':<62}{'score':>8}        " + "".join(f"{e[:8]:>8}" for e in ERRORS))
        rows += contest(bench, everyone, tuple(options.nfe), options.seeds, options.finalists)
    with (options.out / "stochastic.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    print(f"\nwritten to {options.out / 'stochastic.csv'}")


if __name__ == "__main__":
    main()
