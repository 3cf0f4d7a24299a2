"""A population walks from noise back to two modes by the reverse ODE and the reverse SDE, beside the exact p_t.

The data are 0.3 N(−1.4, 0.4²) + 0.7 N(0.6, 0.4²), of mean 0 and variance 1: p_t, its distribution function and its
score are known at all times. One score makes a family of equations (η = 0 the probability-flow ODE, η = 1 Anderson's
reverse SDE): their paths differ, their laws do not. Top: paths over p_t under VP; histograms over the exact p_t. Below:
the share that ends left of the valley, under every process; and the correlation of where particles start and end. In
one dimension those of the ODE never cross, so that it is the map F₀⁻¹(F_T(x)) and the start decides all. The SDE at
η = 1 is the forward process run backwards, in law: the correlation is that of x₀ and x_T, α_T/√(α_T² + σ_T²).
Between, it is less the further the walk goes in log SNR (from α_T = 0, where no SDE can begin, the furthest).

    python experiments/walk_back.py [--out runs/figures] [--device cpu] [--quick]

Reference: Song et al. (2021), arXiv 2011.13456, fig. 2 and sec. 4.3; Anderson (1982), Stochastic Processes and their
Applications 12, 313; Karras et al. (2022), 2206.00364, sec. 4 (the dial).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lesson
import torch
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from scoresde import EDM, VE, VP, Cosine, Process, RectifiedFlow, Sigmoid, SubVP, ddpm, sample, targets
from scoresde.explore import Control, Lines, Numbers, Scene
from scoresde.plots import COLORS, STYLES, Theme, canvas, dress
from scoresde.samplers import Exponential

PROCESSES: dict[str, Process] = {
    "VP": VP(), "SubVP": SubVP(), "Cosine": Cosine(), "Sigmoid": Sigmoid(), "RectifiedFlow": RectifiedFlow(),
    "VE": VE(), "ddpm": ddpm(), "EDM": EDM(),
}  # fmt: skip
ETAS = (0.0, 0.3, 0.6, 1.0, 1.5)
WEIGHTS, MEANS, WIDTH = (0.3, 0.7), (-1.4, 0.6), 0.4
TIMES = 40
"""Positions of the slider, in equal shares of t_max, but for EDM, whose time is σ: they are of σ = t_max share⁴."""

STEPS, BINS, REACH, PATHS = 200, 60, 3.2, 10
SNAPSHOTS = (40, 16, 8, 0)
"""Positions drawn, of TIMES from the data."""

CLOSE = 0.002
"""Of log t: steps of the sampler's own grid so near to a position are left out."""

CHANCE = 0.01
"""With which exact populations would be called wrong, in one of all the tests."""


@dataclass(frozen=True)
class Walk:
    """One process at one η, in y = x_t/√(α² + σ²), of unit variance.

    density: (T, BINS), the population's histogram; left: (T,), its share left of the valley; off: (T,), √N times
    Kolmogorov and Smirnov's distance to the exact law. paths: (T, PATHS), and fine: (steps, PATHS) at fine_times.
    correlation: of start and end; crossed: the share of neighbours that changed places; moved: the largest
    |F_T(start) − F₀(end)|.
    """

    density: Tensor
    left: Tensor
    off: Tensor
    paths: Tensor
    fine_times: Tensor
    fine: Tensor
    correlation: float
    crossed: float
    moved: float


@dataclass(frozen=True)
class Result:
    """walks: process → η → Walk. exact: process → (T, BINS), p_t in y; truth: process → (T,), its share at the left.

    mapped: the correlation under the exact monotone map, η = 0; forward: process → that of η = 1.
    """

    n: int
    walks: dict[str, dict[float, Walk]]
    exact: dict[str, Tensor]
    truth: dict[str, Tensor]
    mapped: float
    forward: dict[str, float]


def mixture() -> targets.GaussianMixture:
    return targets.GaussianMixture(WEIGHTS, torch.tensor(MEANS, dtype=torch.float64)[:, None], WIDTH**2)


def below(law: targets.GaussianMixture, x: Tensor) -> Tensor:
    """The distribution function of a mixture in one dimension."""
    z = (x[..., None] - law.means[:, 0]) / law.variances[:, 0].sqrt()
    return torch.special.ndtr(z) @ law.weights


def valley() -> float:
    """Where the two modes are equally likely."""
    middle, apart = (MEANS[0] + MEANS[1]) / 2, MEANS[1] - MEANS[0]
    return middle + WIDTH**2 / apart * math.log(WEIGHTS[0] / WEIGHTS[1])


def moments(process: Process, t: float) -> tuple[float, float]:
    """α and √(α² + σ²), the standard deviation of x_t."""
    alpha = float(process.alpha(t))
    return alpha, math.hypot(alpha, float(process.sigma(t)))


def times(process: Process, finer: int = 1) -> Tensor:
    share = torch.linspace(1, 0, finer * TIMES + 1, dtype=torch.float64)
    return process.t_max * (share**4 if isinstance(process, EDM) else share)


def walk(process: Process, eta: float, n: int, steps: int, seed: int, device: str) -> Walk:
    target = mixture().to(device)
    model, source = target.model(process), torch.Generator(device).manual_seed(seed)
    sampler = Exponential(order=2 if eta else 3, eta=eta)
    stops, own = times(process, 4), sampler.grid(model, steps)[1:-1]
    own = own[(own[:, None].log() - stops[:-1].log()).abs().amin(1) > CLOSE]
    grid = sampler.begin(model, torch.cat([own, stops]).sort(descending=True).values)
    keep = [int((grid - t).abs().argmin()) for t in times(process)]
    path = sample(model, (n, 1), sampler, grid=grid, generator=source, trajectory=True)[..., 0]
    scale = torch.tensor([moments(process, t)[1] for t in grid.tolist()], dtype=torch.float64, device=path.device)
    density, left, off = [], [], []
    for k in keep:
        t = float(grid[k])
        alpha, spread = moments(process, t)
        x = path[k].sort().values
        counts = torch.histc(x / spread, BINS, -REACH, REACH)
        density.append(counts / n * BINS / (2 * REACH))
        left.append((x < alpha * valley()).double().mean())
        level, i = below(target.marginal(process, t), x), torch.arange(n, device=x.device)
        off.append(math.sqrt(n) * torch.maximum((level - i / n).max(), ((i + 1) / n - level).max()))
    start, end, shown = path[0], path[-1], path[:, :PATHS] / scale[:, None]
    first = below(target.marginal(process, float(grid[0])), start)
    return Walk(
        torch.stack(density).cpu(), torch.stack(left).cpu(), torch.stack(off).cpu(), shown[keep].cpu(),
        grid / process.t_max, shown.cpu(),
        float(torch.corrcoef(torch.stack([start, end]))[0, 1]),
        float((end[start.argsort()].diff() < 0).double().mean()),
        float((below(target.marginal(process, float(grid[-1])), end) - first).abs().max()),
    )  # fmt: skip


def measure(quick: bool, device: str) -> Result:
    n, steps, etas = (2000, 60, ETAS[::3]) if quick else (20_000, STEPS, ETAS)
    target = mixture()
    walks = {
        name: {eta: walk(process, eta, n, steps, 10 * i + j, device) for j, eta in enumerate(etas)}
        for i, (name, process) in enumerate(PROCESSES.items())
    }
    edges = torch.linspace(-REACH, REACH, BINS + 1, dtype=torch.float64)
    exact, truth, forward = {}, {}, {}
    for name, process in PROCESSES.items():
        found, left = [], []
        for t in times(process).tolist():
            law, (alpha, spread) = target.marginal(process, t), moments(process, t)
            found.append(below(law, spread * edges).diff() * BINS / (2 * REACH))
            left.append(below(law, torch.tensor(alpha * valley(), dtype=torch.float64)))
        exact[name], truth[name] = torch.stack(found), torch.stack(left)
        alpha, spread = moments(process, process.t_max)
        forward[name] = alpha / spread
    x = torch.linspace(-5, 5, 10_001, dtype=torch.float64)
    peak = torch.special.ndtri(below(target, x)).square().mul(-0.5).exp() / math.sqrt(2 * math.pi)
    return Result(n, walks, exact, truth, float(torch.trapezoid(peak, x)), forward)


def bound(result: Result) -> float:
    """√N D that exact populations exceed anywhere with the probability CHANCE (Kolmogorov's law, and the union's)."""
    tests = len(result.walks) * len(result.walks["VP"]) * (TIMES + 1)
    return math.sqrt(math.log(2 * tests / CHANCE) / 2)


def table(result: Result) -> str:
    body, share = [], float(result.truth["VP"][-1])
    error = math.sqrt(share * (1 - share) / result.n)
    for name, found in result.walks.items():
        for eta, w in found.items():
            truth = {0.0: result.mapped, 1.0: result.forward[name]}.get(eta)
            body.append(
                (name, f"{eta:g}", f"{w.left[-1]:.4f}", f"{(w.left[-1] - share) / error:+.1f}", f"{w.off[-1]:.2f}",
                 f"{w.off.max():.2f}", f"{w.correlation:.4f}", "" if truth is None else f"{truth:.4f}")
            )  # fmt: skip
    every = [w for found in result.walks.values() for w in found.values()]
    off, furthest = max(float(w.off.max()) for w in every), max(abs(float(w.left[-1]) - share) for w in every) / error
    flows, sdes = ([found[eta] for found in result.walks.values()] for eta in (0.0, 1.0))
    apart = max(abs(w.correlation - result.forward[name]) for w, name in zip(sdes, result.walks)) * math.sqrt(result.n)
    kept = all(w.crossed == 0 for w in flows)
    head = ("process", "η", "left at t = 0", "in ±", "√N D at 0", "largest", "correlation", "truth")
    return "\n".join(
        [
            lesson.rows(head, body),
            "",
            f"The share at the left is {share:.4f} in truth and within {furthest:.1f} standard errors (of {error:.4f}) "
            f"for all {len(every)} populations of {result.n:,}.",
            f"Kolmogorov and Smirnov's √N D from p_t is at most {off:.2f} at any of {TIMES + 1} times: "
            f"{'no more than' if off < bound(result) else 'MORE THAN'} exact draws would",
            f"({bound(result):.2f}, exceeded anywhere with probability {CHANCE:g}).",
            f"Along the ODE {'no two particles cross' if kept else 'SOME PARTICLES CROSS'}, and each ends at the "
            f"quantile where it began within {max(w.moved for w in flows):.0e}.",
            f"At η = 1 the correlation of start and end is the forward process's within {apart:.1f} standard errors.",
        ]
    )


def draw(result: Result, theme: Theme) -> Any:
    figure = canvas(9.0, 5.5, theme)
    top, bottom = figure.subfigures(2, 1, height_ratios=(1.9, 1))
    axes = top.subplots(2, 5, width_ratios=(2.3, 1, 1, 1, 1))
    y = (torch.arange(BINS) + 0.5).numpy() * 2 * REACH / BINS - REACH
    shade = LinearSegmentedColormap.from_list("shade", [theme.paper, theme.faint], 16)
    exact = result.exact["VP"].numpy()
    for line, eta, name, color in zip(axes, (0.0, 1.0), ("ODE, η = 0", "SDE, η = 1"), (COLORS[0], COLORS[1])):
        found = result.walks["VP"][eta]
        line[0].imshow(exact.T, cmap=shade, origin="lower", extent=(1 + 0.5 / TIMES, -0.5 / TIMES, -REACH, REACH),
                       aspect="auto", vmin=0, vmax=1.1, interpolation="bilinear")  # fmt: skip
        line[0].plot(found.fine_times, found.fine, color=color, linewidth=0.7 if eta else 1.4)
        line[0].set(xlim=(1, 0), ylim=(-REACH, REACH))
        line[0].set_ylabel(f"x_t by the {name}", fontsize=8.5)
        for axis, k in zip(line[1:], SNAPSHOTS):
            k = TIMES - k
            axis.bar(y, found.density[k].numpy(), width=2 * REACH / BINS, color=color, alpha=0.45, linewidth=0)
            axis.plot(y, exact[k], color=theme.ink, linewidth=1.1)
            axis.set(xlim=(-REACH, REACH), ylim=(0, 0.95), xticks=[-2, 0, 2], yticks=[])
            truth, left = float(result.truth["VP"][k]), float(found.left[k])
            axis.text(-3.0, 0.91, f"left {100 * left:.1f} %\nexact {100 * truth:.1f} %", fontsize=7.5, va="top",
                      color=theme.ink)  # fmt: skip
    for axis, k in zip(axes[0, 1:], SNAPSHOTS):
        axis.set_title(f"t = {k / TIMES:g}", fontsize=8.5)
    axes[0, 0].set_title("ten paths over p_t, VP", fontsize=8.5)
    axes[1, 0].set_xlabel("t, from noise to data", fontsize=8.5)
    for axis in axes[1, 1:]:
        axis.set_xlabel("x_t", fontsize=8.5)
    for axis in axes.ravel():
        axis.tick_params(labelbottom=axis in axes[1])
        dress(axis, theme, grid=False)
    share, dial = bottom.subplots(1, 2, width_ratios=(1.5, 1))
    _shares(share, result, theme)
    _correlations(dial, result, theme)
    return figure


def _shares(axis: Any, result: Result, theme: Theme) -> None:
    truth = float(result.truth["VP"][-1])
    error = 100 * math.sqrt(truth * (1 - truth) / result.n)
    axis.axhspan(100 * truth - 2 * error, 100 * truth + 2 * error, color=theme.faint, alpha=0.2, linewidth=0)
    axis.axhline(100 * truth, color=theme.ink, linewidth=0.9)
    places = torch.arange(len(result.walks))
    etas = list(result.walks["VP"])
    for k, (eta, marker) in enumerate(zip(etas, "osD^v")):
        left = [100 * float(found[eta].left[-1]) for found in result.walks.values()]
        axis.plot(places + 0.13 * (k - (len(etas) - 1) / 2), left, marker, color=COLORS[k], markersize=4,
                  label=f"{eta:g}", linestyle="none")  # fmt: skip
    axis.set_xticks(places, ["Rectified\nFlow" if name == "RectifiedFlow" else name for name in result.walks])
    axis.set_ylabel("left at t = 0, %", fontsize=8.5)
    axis.set_title(f"share left of the valley: exact {100 * truth:.2f} % (band: ± 2 standard errors)", fontsize=8.5)
    axis.legend(title="η", fontsize=8, title_fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5),
                handletextpad=0.1, borderaxespad=0.1)  # fmt: skip
    dress(axis, theme)


def _correlations(axis: Any, result: Result, theme: Theme) -> None:
    for name, color, style in zip(("VP", "VE", "EDM"), COLORS, STYLES):
        found = result.walks[name]
        axis.plot(list(found), [w.correlation for w in found.values()], color=color, linestyle=style, marker=".",
                  linewidth=1.5, label=name)  # fmt: skip
    axis.plot([0, 1], [result.mapped, result.forward["VP"]], "o", color=theme.ink, fillstyle="none", markersize=8,
              label="exact")  # fmt: skip
    axis.set(xlabel="η", ylim=(-0.06, 1.05))
    axis.xaxis.label.set_fontsize(8.5)
    axis.set_title("correlation of start and end", fontsize=8.5)
    axis.legend(fontsize=8, loc="upper right")
    dress(axis, theme)


def scene(result: Result) -> Scene:
    """Choose the process, slide η and t."""
    etas = list(result.walks["VP"])
    y = (torch.arange(BINS, dtype=torch.float64) + 0.5) * 2 * REACH / BINS - REACH
    share = torch.linspace(1, 0, TIMES + 1, dtype=torch.float64)

    def every(part: str) -> Tensor:  # (processes, etas, ...)
        values = ([torch.as_tensor(getattr(w, part)) for w in found.values()] for found in result.walks.values())
        return torch.stack([torch.stack(row) for row in values])

    paths = every("paths").flip(2)[:, :, None]
    left = {
        "left of the valley, %": 100 * every("left").numpy(),
        "exact, %": 100 * torch.stack(list(result.truth.values()))[:, None].numpy(),
        "√N D from p_t (exact draws: below 1.4 in 95 %)": every("off").numpy(),
        "correlation of start and end": every("correlation")[:, :, None].numpy(),
    }
    return Scene(
        "The walk back",
        "A population from noise to two modes, in units of the standard deviation of x_t; the curve is the exact p_t. "
        "η = 0 is the ODE, η = 1 the reverse SDE. EDM's time is σ: its slider is the fourth root of t / t_max.",
        [
            Control("process", list(result.walks), "choice"),
            Control("η", [f"{eta:g}" for eta in etas], "slider", etas.index(1.0)),
            Control("t / t_max", [f"{t:.2f}" for t in share], "slider", 3 * TIMES // 4),
        ],
        [
            Lines(
                "The population and p_t", y.numpy(),
                {"exact p_t": torch.stack(list(result.exact.values()))[:, None].numpy()},
                "x_t / √(α² + σ²)", "density", bars={"population": every("density").numpy()}, low=0.0, high=0.8,
            ),
            Lines(
                "Four of its paths", share.flip(0).numpy(),
                {f"particle {k + 1}": paths[..., k].numpy() for k in range(4)},
                "t / t_max", "x_t / √(α² + σ²)", mark=share[None, None].numpy(), low=-REACH, high=REACH,
            ),
            Numbers(left),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    lesson.main(Path(__file__).stem, __doc__, measure, table, draw)
