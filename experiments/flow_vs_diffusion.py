"""Straight paths take few steps: rectified flow, flow matching with optimal pairs and VP diffusion on the same data.

Three networks learn modes on a ring; each carries the same noise to the data along the paths of its own flow
ẋ = v(x, t), from t = 1 to 0. How far these are from straight lines walked at an even pace,

    S = ∫₀¹ E‖ẋ_t − (x₁ − x₀)‖² dt,   0 where one Euler step follows them exactly,

goes with the calls that Euler's method needs; the default sampler, whose coordinates do not depend on the process,
needs fewer on curved paths too. Upper row: the paths. Lower row: where in time they bend, what a given error costs, and
a flow that one Euler step solves exactly. That flow: for data N(m, C) let A = √C, and pair each noise ε with
x₀ = m + A ε, the optimal transport. Then x_t = (1 − t) m + B ε, B = (1 − t) A + t, which is invertible, so that

    v(x, t) = ε − x₀ = (1 − A) B⁻¹ (x − (1 − t) m) − m

is the velocity, constant along each path: S = 0, and x₁ − v(x₁, 1) = m + A x₁ is x₀. With independent pairs the flow of
the same data is x_t = (1 − t) m + H ε, H² = (1 − t)² C + t². It ends at the same points, but v(x₁, 1) = x₁ − m, and one
Euler step takes all of the noise to m: an error of √(tr C). Along an axis of deviation s, ∫ Ḣ² dt = 1 + s² − π s/2, and
less the square of the distance, (1 − s)², it leaves S = (2 − π/2) tr A in all.

    python experiments/flow_vs_diffusion.py [--out runs/figures] [--device cpu] [--quick]

References: Liu et al. (2023), arXiv 2209.03003 (straightness); Lipman et al. (2023), 2210.02747; Tong et al. (2023),
2302.00482 and Pooladian et al. (2023), 2304.14772 (optimal pairs of a batch); Song et al. (2021), 2011.13456 (VP).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lesson
import torch
from torch import Tensor

from scoresde import VP, Count, Model, RectifiedFlow, fit, grids, metrics, networks, sample, targets
from scoresde.plots import COLORS, STYLES, Theme, canvas, dress
from scoresde.samplers import ODE, Adams, Euler, Sampler

STEPS, BATCH, WIDTH, LR = 2000, 128, 128, 3e-3
MODES, DEVIATION = 5, 0.2
STARTS, FEW, DRAWN, FINE = 1500, 300, 80, 120
CALLS = (1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 64, 96, 128)
GOALS = (0.3, 0.1, 0.03)
PAIRS = {
    # name: process, prediction, coupling
    "rectified flow": (RectifiedFlow(), "velocity", "independent"),
    "optimal pairs": (RectifiedFlow(), "velocity", "optimal"),
    "VP diffusion": (VP(), "v", "independent"),
}
MEAN = torch.tensor([1.5, -0.5], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.50, 0.45], [0.45, 0.80]], dtype=torch.float64)


@dataclass(frozen=True)
class Flow:
    """A flow on a fine grid of times (T,), from all starts: (T, B, 2)."""

    times: Tensor
    states: Tensor

    @property
    def bends(self) -> Tensor:
        """‖ẋ − (x₁ − x₀)‖² between the times: (T − 1, B)."""
        velocity = self.states.diff(dim=0) / self.times.diff().to(self.states)[:, None, None]
        return (velocity - (self.states[0] - self.states[-1])).square().sum(-1)

    @property
    def straightness(self) -> tuple[float, float]:
        """S, and its standard error."""
        each = -self.times.diff().to(self.states) @ self.bends
        return float(each.mean()), float(each.std()) / math.sqrt(len(each))

    @property
    def distance2(self) -> float:
        """E‖x₁ − x₀‖²."""
        return rms(self.states[0] - self.states[-1]) ** 2


@dataclass(frozen=True)
class Learned:
    """A network's flow; S of the exact model, NaN where none is known; the ends' distance to the data and their share
    on a mode; calls → error of Euler's method and of the default sampler.
    """

    flow: Flow
    exact: float
    law: metrics.Estimate
    share: float
    euler: dict[int, float]
    default: dict[int, float]


@dataclass(frozen=True)
class Gaussian:
    """A flow of N(m, C): S, and the error of one Euler step against the known ends; each measured, and by formula."""

    flow: Flow
    bend: tuple[float, float]
    error: tuple[float, float]


@dataclass(frozen=True)
class Result:
    learned: dict[str, Learned]
    gaussians: dict[str, Gaussian]


def ring() -> targets.GaussianMixture:
    """Modes at radius 2."""
    angles = torch.arange(MODES, dtype=torch.float64) * 2 * math.pi / MODES
    means = 2 * torch.stack([angles.cos(), angles.sin()], 1)
    return targets.GaussianMixture(torch.ones(MODES), means, DEVIATION**2)


def share_on_modes(x: Tensor) -> float:
    """Of points within four deviations of a mode; of the data 1 − e⁻⁸ = 0.9997."""
    return float((torch.cdist(x.double(), ring().means).amin(1) < 4 * DEVIATION).double().mean())


def fine(model: Model, x: Tensor, steps: int) -> Flow:
    """The flow from x by Runge and Kutta's method of order 4, but for the tiny last step.

    In equal steps of t^(1/3): a learned VP flow has a slope ∝ 1/√t at the data.
    """
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64) ** 3
    states = sample(model, x=x, sampler=ODE("rk4"), grid=times[:-1], trajectory=True)
    last = sample(model, x=states[-1], sampler=Euler(), grid=times[-2:])
    return Flow(times, torch.cat([states, last[None]]).cpu())


def rms(gap: Tensor) -> float:
    return float(gap.square().sum(-1).mean().sqrt())


def errors(
    model: Model, sampler: Sampler, x: Tensor, ends: Tensor, grid: Any, steps: Sequence[int]
) -> dict[int, float]:
    """Calls of the network → root mean square distance to where the fine flow ends."""
    found = {}
    for n in steps:
        count = Count()
        reached = sample(model.wrap(count), x=x, sampler=sampler, steps=n, grid=grid)
        found[count.calls] = rms(reached - ends)
    return found


def cost(found: dict[int, float], goal: float) -> str:
    """The fewest calls with an error of at most `goal`."""
    return str(min((n for n, error in found.items() if error <= goal), default=f"> {max(found)}"))


def trained(name: str, device: str, steps: int) -> Model:
    process, prediction, coupling = PAIRS[name]
    torch.manual_seed(0)
    net = networks.MLP(2, width=WIDTH, highest=32.0).to(device)
    data = ring().sample(20_000, torch.Generator().manual_seed(0)).float()
    *_, last = fit(
        Model(net, process, prediction), data, steps, batch_size=BATCH, lr=LR, coupling=coupling,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return last.model


def learn(name: str, device: str, quick: bool) -> Learned:
    model, target = trained(name, device, STEPS // 10 if quick else STEPS), ring()
    steps, count, calls = (FINE // 4, STARTS // 5, CALLS[:9:2]) if quick else (FINE, STARTS, CALLS)
    x = torch.randn(count, 2, generator=torch.Generator().manual_seed(1))
    flow, exact = fine(model, x.to(device), steps), math.nan
    if PAIRS[name][2] == "independent":
        exact = fine(target.model(model.process, model.prediction), x.double(), steps).straightness[0]
    source, ends = torch.Generator().manual_seed(2), flow.states[-1]
    law = metrics.measure("energy_distance", ends, target.sample(count, source), target.sample(count, source))
    few, goal = x[:FEW].to(device), ends[:FEW].to(device)
    euler = errors(model, Euler(), few, goal, grids.uniform, calls)
    return Learned(flow, exact, law, share_on_modes(ends), euler, errors(model, Adams(), few, goal, None, calls[1:]))


def optimal(mean: Tensor, covariance: Tensor) -> Model:
    """The flow of N(m, C) by the pairs x₀ = m + √C ε, exact."""
    variances, axes = torch.linalg.eigh(covariance)
    roots = variances.sqrt()

    def net(x: Tensor, t: Tensor) -> Tensor:
        t = t[:, None]
        return (x - (1 - t) * mean) @ axes * ((1 - roots) / ((1 - t) * roots + t)) @ axes.mT - mean

    return Model(net, RectifiedFlow(), "velocity")


def gaussian(model: Model, bend: float, error: float, steps: int) -> Gaussian:
    """S and the error are means of squares over four starts with the normal's mean and covariance, which is exact."""
    variances, axes = torch.linalg.eigh(COVARIANCE)
    four = math.sqrt(2) * torch.cat([torch.eye(2), -torch.eye(2)]).double()
    angle = torch.linspace(0, 2 * math.pi, 15, dtype=torch.float64)[:-1]
    circle = 1.5 * torch.stack([angle.cos(), angle.sin()], 1)
    one = sample(model, x=four, sampler=Euler(), steps=1)
    gap = rms(one - MEAN - four @ axes * variances.sqrt() @ axes.mT)
    return Gaussian(fine(model, circle, steps), (fine(model, four, steps).straightness[0], bend), (gap, error))


def measure(quick: bool, device: str) -> Result:
    learned, steps = {name: learn(name, device, quick) for name in PAIRS}, 128 if quick else 1024
    independent = targets.Gaussian(MEAN, COVARIANCE).model(RectifiedFlow(), "velocity")
    bend = (2 - math.pi / 2) * float(torch.linalg.eigvalsh(COVARIANCE).sqrt().sum())
    gaussians = {
        "optimal pairs": gaussian(optimal(MEAN, COVARIANCE), 0.0, 0.0, steps),
        "independent pairs": gaussian(independent, bend, math.sqrt(float(COVARIANCE.trace())), steps),
    }
    return Result(learned, gaussians)


def table(result: Result) -> str:
    paths, calls = [], []
    for name, row in result.learned.items():
        value, error = row.flow.straightness
        exact = "–" if math.isnan(row.exact) else f"{row.exact:.3f}"
        paths.append([name, f"{value:.3f} ± {error:.3f}", exact, row.flow.distance2, row.law, f"{row.share:.3f}"])
        calls.append([name, *(cost(found, goal) for found in (row.euler, row.default) for goal in GOALS)])
    gaussians = [[name, *(f"{v:.3g}" for v in (*g.bend, *g.error))] for name, g in result.gaussians.items()]
    three = [result.learned[name] for name in ("optimal pairs", "rectified flow", "VP diffusion")]
    bends = [row.flow.straightness[0] for row in three]
    euler, default = [cost(row.euler, GOALS[1]) for row in three], [cost(row.default, GOALS[1]) for row in three]
    known, other = result.gaussians.values()
    return "\n".join([
        f"Paths from noise to {MODES} modes on a ring, by learned flows",
        lesson.rows(("", "S", "exact", "E‖x₁ − x₀‖²", "energy distance to data", "on a mode"), paths),
        "",
        "Calls of the network to come so near to where the flow ends, root mean square",
        lesson.rows(("", *(f"{kind} {goal}" for kind in ("Euler", "default") for goal in GOALS)), calls),
        "",
        "The flow of N(m, C), exact",
        lesson.rows(("", "S", "(2 − π/2) tr √C", "error of one Euler step", "√tr C"), gaussians),
        "",
        f"Paths of optimal pairs are {bends[1] / bends[0]:.0f} times straighter than those of independent ones, and "
        f"{bends[2] / bends[0]:.0f} times straighter than VP's.",
        f"To come within {GOALS[1]}, Euler's method takes {euler[0]} calls with optimal pairs, {euler[1]} on "
        f"the rectified flow and {euler[2]} on VP;",
        f"the default sampler, in coordinates that are the same for all: {', '.join(default)}.",
        f"Where the pairs are an affine transport, one Euler step is exact: it errs by {known.error[0]:.0e}; with "
        f"independent pairs by {other.error[0]:.2f}.",
    ])  # fmt: skip


def draw(result: Result, theme: Theme) -> Any:
    figure = canvas(9.0, 5.5, theme)
    upper, lower = figure.subplots(2, 3)
    for axis, color, style, (name, row) in zip(upper, COLORS, STYLES, result.learned.items()):
        drawn = row.flow.states[:, :DRAWN].permute(2, 0, 1).numpy()
        axis.plot(*drawn, color=color, linewidth=0.6)
        axis.scatter(*drawn[:, 0], s=4, color=theme.faint, linewidths=0)
        axis.scatter(*drawn[:, -1], s=8, color=theme.ink, linewidths=0, zorder=3)
        axis.set_title(f"{name}: S = {row.flow.straightness[0]:.2g}", fontsize=9.5)
        axis.set(xlim=(-3.1, 3.1), ylim=(-3.1, 3.1), aspect="equal", xticks=(-2, 0, 2), yticks=(-2, 0, 2))
        axis.set_xlabel("small dots: noise; large: where it ends")
        look: dict[str, Any] = {"color": color, "linewidth": 1.6}
        middle = (row.flow.times[1:] + row.flow.times[:-1]).numpy() / 2
        lower[0].plot(middle, row.flow.bends.mean(1).numpy(), linestyle=style, label=name, **look)
        lower[1].plot(*zip(*row.euler.items()), marker="o", markersize=2.5, **look)
        lower[1].plot(*zip(*row.default.items()), linestyle=":", **look)
    lower[0].set(yscale="log", ylim=(1e-3, 3e3), xlabel="time t (noise at 1)", ylabel="E‖ẋ − (x₁ − x₀)‖²")
    lower[0].legend(fontsize=8, loc="upper right", labelspacing=0.25)
    lower[0].set_title("where in time the paths bend", fontsize=9.5)
    lower[1].set(xscale="log", yscale="log", xlabel="calls of the network", ylabel="distance to the end, r.m.s.")
    lower[1].set(ylim=(1e-3, 3), xticks=(1, 10, 100), xticklabels=("1", "10", "100"))
    lower[1].set_title("solid: Euler; dotted: the default sampler", fontsize=9.5)
    straight, bent = (g.flow.states.permute(2, 0, 1).numpy() for g in result.gaussians.values())
    axis = lower[2]
    axis.plot(*bent, color=COLORS[0], linewidth=0.9)
    axis.plot(*straight[:, [0, -1]], color=COLORS[1], linewidth=1.0, linestyle=STYLES[1])
    axis.scatter(*straight[:, 0], s=6, color=theme.faint, linewidths=0)
    axis.scatter(*straight[:, -1], s=14, color=theme.ink, linewidths=0, zorder=3)
    axis.scatter(*MEAN.numpy(), s=60, marker="X", color=COLORS[0], edgecolors=theme.paper, zorder=4)
    axis.set_title("two flows of N(m, C), the same ends", fontsize=9.5)
    axis.set(aspect="equal", xlim=(-1.9, 3.1))
    axis.set_xlabel("dashed: optimal, one Euler step is exact\nsolid: independent, one step goes to ✕")
    for axis in (*upper, *lower):
        axis.xaxis.label.set_size(8)
        axis.yaxis.label.set_size(8.5)
        dress(axis, theme)
    return figure


if __name__ == "__main__":
    lesson.main(Path(__file__).stem, __doc__, measure, table, draw)
