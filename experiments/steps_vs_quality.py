"""Steps against quality: DDPM, DDIM and higher-order samplers from 1 to 1000 steps, with one exact score.

Three modes on a line, so that everything has an exact answer: the distance W1 of the samples to the target is an
integral of quantile functions in closed form, and the share of samples within three deviations of a mode is known.
Samplers of the flow carry the quantiles of the exact noise end, so that their W1 has no Monte Carlo error and shows
the order of each far below the floor; those with noise draw samples, and stop at the floor, which is what exact
samples of that number score. Above: W1 against calls of the network, without noise and with it. Below: the share on a
mode against calls, and what ten steps give.

    python experiments/steps_vs_quality.py [--out runs/figures] [--device cpu] [--quick]

Reference: Ho et al. (2020), arXiv 2006.11239; Song et al. (2021), 2010.02502; Karras et al. (2022), 2206.00364; Lu et
al. (2022), 2211.01095; Xue et al. (2023), 2309.05019; del Barrio, Giné and Matrán (1999), Ann. Probab. 27 (the floor).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import lesson
import numpy as np
import torch
from line import Line
from torch import Tensor

from scoresde import VP, Count, Model, Process, grids, sample, targets
from scoresde.explore import Control, Lines, Numbers, Scene
from scoresde.plots import COLORS, STYLES, Theme, canvas, dress
from scoresde.samplers import DDIM, DDPM, SDE, Adams, DPMSolverPP, Heun, Sampler, SASolver

WEIGHTS, MEANS, DEVIATIONS = (0.5, 0.2, 0.3), (-1.5, 0.2, 1.7), (0.2, 0.1, 0.25)
STEPS = (1, 2, 3, 5, 7, 10, 15, 20, 30, 50, 100, 200, 500, 1000)
QUANTILES, DRAWS, SETS = 2048, 20_000, 200
NEAR = 3.0
"""On a mode: within so many of its deviations."""
GOOD = 0.02
EDGES = np.linspace(-3.0, 3.4, 129)


class Row(NamedTuple):
    """A sampler, its colour and style, its declared order if it follows the flow, and the grid if not its own."""

    sampler: Sampler
    color: str
    style: Any
    order: int | None = None
    grid: Callable[[Process, int], Tensor] | None = None


SAMPLERS = {
    "DDIM": Row(DDIM(), COLORS[1], STYLES[1], 1),
    "Heun": Row(Heun(), COLORS[4], STYLES[2], 2),
    "DPM-Solver++ 2": Row(DPMSolverPP(2), COLORS[2], STYLES[3], 2),
    "DPM-Solver++ 3": Row(DPMSolverPP(3), COLORS[3], STYLES[5], 3),
    "Adams (default)": Row(Adams(), COLORS[0], STYLES[0], 5),
    "DDPM, equal steps in t": Row(DDPM(), COLORS[3], STYLES[1], grid=grids.uniform),
    "DDPM": Row(DDPM(), COLORS[5], STYLES[4]),
    "Euler–Maruyama": Row(SDE("euler"), COLORS[2], STYLES[2]),
    "SA-Solver": Row(SASolver(), COLORS[0], STYLES[0]),
}


LINE = Line(WEIGHTS, MEANS, DEVIATIONS)
_, M, S, _ = LINE.standard(torch.zeros(1))
SHARES = (LINE.cdf(M + NEAR * S) - LINE.cdf(M - NEAR * S)).tolist()
"""P(on mode k); the modes' intervals do not meet."""
MIDDLES = (EDGES[1:] + EDGES[:-1]) / 2
DENSITY = LINE.target.log_prob(torch.tensor(MIDDLES)[:, None]).exp().numpy()


@dataclass(frozen=True)
class Result:
    """Arrays are (steps, samplers)."""

    steps: tuple[int, ...]
    calls: np.ndarray
    w1: np.ndarray
    errors: np.ndarray  # standard errors of W1; zero where there is no noise
    shares: np.ndarray  # (steps, samplers, modes), of the samples on each mode
    bars: np.ndarray  # (steps, samplers, bins), densities
    floor: tuple[float, float, float]  # W1 of exact samples: mean, deviation, and the formula
    first: tuple[float, float]  # E|x₀ − mean|, and how far from it a step to the denoiser may score

    def reached(self, name: str) -> int | None:
        """The least calls from which on W1 stays below GOOD."""
        i = list(SAMPLERS).index(name)
        after = max(np.flatnonzero(self.w1[:, i] >= GOOD), default=-1) + 1
        return int(self.calls[after, i]) if after < len(self.steps) else None

    def order(self, name: str) -> float:
        """The slope of W1 against steps, of the step before 200, or before the last."""
        i, j = list(SAMPLERS).index(name), self.steps.index(min(200, self.steps[-1]))
        return math.log(self.w1[j - 1, i] / self.w1[j, i]) / math.log(self.steps[j] / self.steps[j - 1])


def run(model: Model, row: Row, steps: int, draws: int) -> tuple[int, Tensor, float, float]:
    """Calls of the network, the samples (n,), their W1 and its standard error.

    A flow's points stand for its law, not for draws of it, so that their quantiles are compared with the line's.
    """
    count, process, device = Count(), model.process, model.like().device
    if row.sampler.stochastic:
        generator = torch.Generator(device).manual_seed(steps)
        x = sample(model.wrap(count), (draws, 1), row.sampler, steps, row.grid, generator=generator)[:, 0].cpu()
        return count.calls, x, *LINE.wasserstein(x)
    noise = LINE.at(process, process.t_max).quantiles(QUANTILES)[:, None].to(device)
    x = sample(model.wrap(count), None, row.sampler, steps, row.grid, x=noise)[:, 0].cpu()
    return count.calls, x, float((x.sort().values - LINE.quantiles(QUANTILES)).abs().mean()), 0.0


def measure(quick: bool, device: str) -> Result:
    steps, draws, sets = ((1, 3, 10, 50, 100), 4000, 50) if quick else (STEPS, DRAWS, SETS)
    process, generator = VP(), torch.Generator().manual_seed(0)
    exact = [LINE.wasserstein(LINE.target.sample(draws, generator)[:, 0])[0] for _ in range(sets)]
    mean, variance = (float(moment) for moment in LINE.target.moments)
    at = torch.tensor(mean, dtype=torch.float64)
    first = 2 * float(mean * LINE.cdf(at) - LINE.below(at))
    rho = process.at("sigma", process.t_max) / process.at("alpha", process.t_max)
    model = targets.GaussianMixture(*(v.to(device) for v in (LINE.target.weights, LINE.target.means, S.square())))
    model = model.model(process)
    rows = [[run(model, row, k, draws) for row in SAMPLERS.values()] for k in steps]
    return Result(
        tuple(steps),
        *(np.array([[cell[i] for cell in row] for row in rows]) for i in (0, 2, 3)),
        np.array([[((x[:, None] - M).abs() < NEAR * S).double().mean(0).numpy() for _, x, *_ in row] for row in rows]),
        np.array([[np.histogram(x, EDGES)[0] / len(x) / np.diff(EDGES) for _, x, *_ in row] for row in rows]),
        (float(np.mean(exact)), float(np.std(exact)), LINE.floor(draws)),
        (first, math.sqrt(2 / math.pi) * variance / rho),
    )


def table(result: Result) -> str:
    shown = [i for i, k in enumerate(result.steps) if k in (1, 3, 5, 10, 20, 50, 100, 200, 1000)]
    names, last = list(SAMPLERS), result.steps[-1]
    steps, flows = [f"K = {result.steps[k]}" for k in shown], [name for name in names if SAMPLERS[name].order]
    (mean, spread, formula), (first, slack) = result.floor, result.first
    ends = dict(zip(names, result.w1[-1]))
    one = [result.w1[0, names.index(name)] for name in ("DDIM", "DDPM")]
    worst, best = (choose(flows, key=lambda name: ends[name]) for choose in (max, min))
    arrived = sum(ends[name] < mean + 3 * spread for name in names if name not in flows)
    return "\n".join([
        f"W1 to the target after K steps; calls of the network, counted: a step, and until W1 stays below {GOOD:g}",
        lesson.rows(
            ["sampler", *steps, "calls/K", "calls"],
            [[name, *(f"{result.w1[k, i]:.2g}" for k in shown), f"{result.calls[-1, i] / last:.2f}",
              result.reached(name) or "—"] for i, name in enumerate(names)],
        ),
        f"floor, W1 of exact samples: {mean:.2g}, of one set ± {spread:.1g}; formula {formula:.2g}. With noise, W1",
        f"has a standard error of up to {result.errors[-1].max():.1g} at K = {last}. Without, there is no floor.",
        "",
        f"share of the samples within {NEAR:g} deviations of a mode; exact {sum(SHARES):.4f}",
        lesson.rows(
            ["sampler", *steps],
            [[name, *(f"{result.shares[k, i].sum():.4f}" for k in shown)] for i, name in enumerate(names)],
        ),
        "",
        lesson.rows(
            ["order of W1 in the steps", "declared", "measured"],
            [[name, SAMPLERS[name].order, f"{result.order(name):.2f}"] for name in flows],
        ),
        "",
        f"One step of DDIM or DDPM lands on the data's mean: W1 {one[0]:.3f} and {one[1]:.3f}; E|x₀ − mean| is "
        f"{first:.3f} ± {slack:.3f}.",
        f"With {last} steps {arrived} of {len(names) - len(flows)} samplers with noise are within three deviations of "
        "the floor;",
        f"of those without, {worst} is at {ends[worst]:.1g} and {best} at {ends[best]:.1g}.",
        f"Calls until W1 stays below {GOOD:g}: {result.reached('Adams (default)')} by the default, "
        f"{result.reached('DDIM') or 'more than ' + str(last)} by DDIM, "
        f"{result.reached('DDPM') or 'more than ' + str(last)} by DDPM.",
    ])  # fmt: skip


def draw(result: Result, theme: Theme) -> Any:
    figure = canvas(9.0, 5.6, theme)
    (flow, noise), (share, shape) = figure.subplots(2, 2)
    for i, (name, row) in enumerate(SAMPLERS.items()):
        some = result.calls[:, i] > 0
        look = dict(color=row.color, linestyle=row.style, linewidth=2.4 if row.color == COLORS[0] else 1.6, label=name)
        (flow if row.order else noise).plot(
            result.calls[some, i], result.w1[some, i], marker="o", markersize=2.5, **look
        )
        if name in ("DDIM", "DPM-Solver++ 3", "Adams (default)", "DDPM", "Euler–Maruyama"):
            share.plot(result.calls[some, i], result.shares[some, i].sum(1), **look)
        if name in ("DDIM", "Adams (default)", "DDPM"):
            shape.plot(MIDDLES, result.bars[result.steps.index(10), i], **{**look, "linewidth": 1.5})
    mean, spread, _ = result.floor
    for axis in (flow, noise):
        axis.axhline(mean, color=theme.faint, linewidth=1.0)
        axis.axhspan(max(mean - 2 * spread, mean / 4), mean + 2 * spread, color=theme.faint, alpha=0.2, linewidth=0)
        axis.set(xscale="log", yscale="log")
    flow.text(1.0, mean / 1.3, "floor of exact\nsamples", color=theme.ink, fontsize=8, va="top")
    noise.set_ylim(mean / 4, 20)
    share.axhline(sum(SHARES), color=theme.faint, linewidth=1.0)
    share.set(xscale="log", xlim=(0.9, 130))
    shape.fill_between(MIDDLES, DENSITY, color=theme.faint, alpha=0.35, linewidth=0, label="exact")
    for axis, title, x, y, where in (
        (flow, "without noise", "calls of the network", "W1 to the target", "lower left"),
        (noise, "with noise", "calls of the network", "W1 to the target", "upper right"),
        (share, "on a mode", "calls of the network", f"share within {NEAR:g} deviations", "lower right"),
        (shape, "after 10 steps", "x", "density", "upper right"),
    ):
        axis.set_title(title, fontsize=9.5)
        axis.set_xlabel(x, fontsize=9)
        axis.set_ylabel(y, fontsize=9)
        axis.legend(fontsize=8, loc=where)
        if x != "x":
            axis.xaxis.set_major_formatter("{x:g}")
        dress(axis, theme)
    return figure


def scene(result: Result) -> Scene:
    """Steps and the sampler choose what was sampled; the exact density stays."""

    def same(value: float) -> np.ndarray:
        return np.full((1, 1), value)

    modes = {f"share on the mode at {m:g}; exact {SHARES[k]:.3f}": result.shares[..., k] for k, m in enumerate(MEANS)}
    numbers = {
        "calls of the network": result.calls, "W1 to the target": result.w1, "floor of W1": same(result.floor[0]),
        "share on a mode": result.shares.sum(2), "exact share on a mode": same(sum(SHARES)), **modes,
    }  # fmt: skip
    exact, bars = {"exact density": DENSITY[None, None]}, {"samples": np.minimum(result.bars, 4.0)}
    return Scene(
        "Steps against quality",
        "Samples after K steps, over the exact density. One step lands on the mean of the data, or on a normal as wide "
        "as they; then the modes appear, and how soon depends on the sampler.",
        [
            Control("K", [str(k) for k in result.steps], start=result.steps.index(10)),
            Control("sampler", list(SAMPLERS), "choice"),
        ],
        [Lines("samples and density", MIDDLES, exact, "x", "density", bars, low=0.0, high=1.6), Numbers(numbers)],
    )


if __name__ == "__main__":
    lesson.main(Path(__file__).stem, __doc__, measure, table, draw)
