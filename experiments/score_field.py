"""The score field of three modes at four noise levels, exact and learned, and where its particles go.

The arrows are σ(t) ∇log p_t(x), minus the noise that is expected in x; the shade is p_t. They point to the modes when t
is small and to their common mean when it is large. Top: exact. Middle: a perceptron that learned to predict the noise
in draws of the mixture and never saw a density. Dots: one population that the probability flow carries from t = 1 to 0
along either field. Bottom: σ ‖learned − exact‖. Inside the contour, which holds 99 % of the mass, the learned field is
right; outside, where it saw no data, it is wrong, the more so the smaller t is. A learned field is to be trusted where
there were data, which is why sampling starts from noise: its particles are always where the field was learned.

    python experiments/score_field.py [--out runs/figures] [--device cpu] [--quick]

Reference: Song and Ermon (2019), arXiv 1907.05600, sec. 3.2.1 and fig. 2; Vincent (2011), Neural Computation 23, 1661.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lesson
import torch
from torch import Tensor

from scoresde import PREDICTIONS, VP, Model, fit, networks, sample, targets
from scoresde.explore import Control, Lines, Numbers, Plane, Scene
from scoresde.plots import COLORS, STYLES, Theme, canvas, dress
from scoresde.samplers import Adams, Exponential

PROCESS = VP()
SHOWN = (0.03, 0.1, 0.21, 0.5)
"""Times drawn."""

TIMES = (
    1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.45, 0.4, 0.35, 0.3, 0.27, 0.24, 0.21, 0.18, 0.15, 0.125, 0.1, 0.08, 0.065, 0.05,
    0.04, 0.03, 0.02, 0.01, 0.005,
)  # fmt: skip
BETWEEN = 4
"""Steps of the sampler from one time to the next."""

HALF = 2.6
"""The box drawn and judged is [−HALF, HALF]²."""

ARROWS, CELLS = 13, 48
WIDTH, BATCH, SEED = 64, 1024, 0
WALKS = {"probability flow": Adams(), "reverse SDE": Exponential(order=2, eta=1.0)}


@dataclass(frozen=True)
class Result:
    """At TIMES: density, (T, C, C), rows from the bottom up; mass, (T,), its level around 99 % of the mass; arrows:
    field → (T, ARROWS², 2); off: (T, C, C), σ ‖learned − exact‖.

    under, over, spread: (T,), the relative error under p_t and over the box, and the former's standard error.
    paths: walk → field → (T + 1, N, 2), the last at t = 0. gradient: the largest |exact score − ∇log p_t| by autograd.
    """

    target: targets.GaussianMixture
    density: Tensor
    mass: Tensor
    arrows: dict[str, Tensor]
    off: Tensor
    under: Tensor
    over: Tensor
    spread: Tensor
    paths: dict[str, dict[str, Tensor]]
    gradient: float
    weights: int


def trained(target: Any, steps: int, device: str) -> Model:
    """A model of fresh draws of the target."""
    torch.manual_seed(SEED)
    core = networks.MLP(2, WIDTH, highest=20.0)
    net = networks.Preconditioned(core, PROCESS, 1.0, PREDICTIONS["noise"]).to(device)
    source = torch.Generator(device).manual_seed(SEED)
    draws = lambda n, generator: target.sample(n, generator).float()  # noqa: E731
    model = Model(net, PROCESS, "noise")
    for record in fit(model, draws, steps, batch_size=BATCH, lr=2e-3, ema=0.998, generator=source):
        model = record.model
    model.net.requires_grad_(False).eval()  # pyright: ignore[reportAttributeAccessIssue]
    return model


def plane(cells: int) -> Tensor:
    """The middles of so many cells a side of the box, rows from the bottom up: (cells², 2)."""
    place = HALF * (2 * (torch.arange(cells, dtype=torch.float64) + 0.5) / cells - 1)
    y, x = torch.meshgrid(place, place, indexing="ij")
    return torch.stack([x, y], -1).reshape(-1, 2)


def relative(difference: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """√(E‖difference‖²/E‖truth‖²) and its standard error, by the delta method; both (N, 2)."""
    a, b = difference.square().sum(1), truth.square().sum(1)
    ratio = a.mean() / b.mean()
    error = (a - ratio * b).std() / math.sqrt(len(a)) / b.mean()
    return ratio.sqrt(), error / (2 * ratio.sqrt())


def measure(quick: bool, device: str) -> Result:
    target = targets.EXAMPLES["gmm"]().to(device)
    assert isinstance(target, targets.GaussianMixture)
    learned, exact = trained(target, 120 if quick else 3000, device), target.model(PROCESS)
    models = {"exact": exact, "learned": learned}
    source = torch.Generator(device).manual_seed(1)
    x, grid, coarse = (v.to(device) for v in (target.sample(1).double(), plane(CELLS), plane(ARROWS)))
    density, mass, off, errors, gradient = [], [], [], [], 0.0
    arrows: dict[str, list[Tensor]] = {name: [] for name in models}
    with torch.no_grad():
        for t in TIMES:
            law, sigma = target.marginal(PROCESS, t), float(PROCESS.sigma(t))
            x = law.sample(1000 if quick else 20_000, source)
            both = [[_score(m, at, t) for m in models.values()] for at in (x.double(), grid)]
            errors.append(
                [*relative(both[0][1] - both[0][0], both[0][0]), relative(both[1][1] - both[1][0], both[1][0])[0]]
            )
            gradient = max(gradient, _gradient_gap(law, x[:200].double(), both[0][0][:200]))
            density.append(law.log_prob(grid).exp().reshape(CELLS, CELLS))
            mass.append(law.log_prob(x.double()).quantile(0.01).exp())
            off.append(sigma * (both[1][1] - both[1][0]).norm(dim=1).reshape(CELLS, CELLS))
            for name, model in models.items():
                arrows[name].append(sigma * _score(model, coarse, t))
    under, spread, over = torch.tensor(errors, dtype=torch.float64).T
    paths = walks(models, target.marginal(PROCESS, 1.0).sample(500 if quick else 10_000, source), source)
    return Result(
        target.cpu(), torch.stack(density).cpu(), torch.stack(mass).cpu(),
        {name: torch.stack(fields).cpu() for name, fields in arrows.items()}, torch.stack(off).cpu(), under, over,
        spread, paths, gradient,
        sum(p.numel() for p in learned.net.parameters()),  # pyright: ignore[reportAttributeAccessIssue]
    )  # fmt: skip


def _score(model: Model, x: Tensor, t: float) -> Tensor:
    return model.predict("score", x.to(model.like().dtype), t).double()


def _gradient_gap(law: Any, x: Tensor, score: Tensor) -> float:
    with torch.enable_grad():
        x = x.clone().requires_grad_()
        (truth,) = torch.autograd.grad(law.log_prob(x).sum(), x)
    return float((truth - score).abs().max() / truth.abs().max())


def walks(models: dict[str, Model], start: Tensor, source: torch.Generator) -> dict[str, dict[str, Tensor]]:
    """Populations from the same noise along each field, at TIMES and at 0."""
    fine = [a + (b - a) * k / BETWEEN for a, b in zip(TIMES, (*TIMES[1:], 0.0)) for k in range(BETWEEN)]
    found: dict[str, dict[str, Tensor]] = {walk: {} for walk in WALKS}
    for walk, sampler in WALKS.items():
        for name, model in models.items():
            source.manual_seed(3)
            x = start.to(model.like().dtype)
            path = sample(model, sampler=sampler, grid=[*fine, 0.0], x=x, generator=source, trajectory=True)
            found[walk][name] = path[::BETWEEN].double().cpu()
    return found


def shares(target: targets.GaussianMixture, x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean posterior of the modes, whose expectation is the weights, and its standard errors."""
    posterior = target.responsibilities(x)
    return posterior.mean(0), posterior.std(0) / math.sqrt(len(x))


def table(result: Result) -> str:
    fields = lesson.rows(
        ("t", "σ", "error under p_t", "±", "error over the box", "ratio"),
        [
            (f"{t:g}", float(PROCESS.sigma(t)), float(under), float(spread), float(over), float(over / under))
            for t, under, spread, over in zip(TIMES, result.under, result.spread, result.over)
            if t in (*SHOWN, 0.005, 0.01, 1.0)
        ],
        2,
    )
    body, worst = [], dict.fromkeys(("exact", "learned"), 0.0)
    for walk, found in result.paths.items():
        for name, path in found.items():
            share, error = shares(result.target, path[-1])
            off = float(((share - result.target.weights) / error).abs().max())
            worst[name] = max(worst[name], off)
            body.append((f"{walk}, {name}", *(f"{a:.4f} ± {b:.4f}" for a, b in zip(share, error)), f"{off:.1f}"))
    body.append(("truth", *(f"{w:.4f}" for w in result.target.weights.tolist()), ""))
    walk = result.paths["probability flow"]
    apart = (walk["exact"][-1] - walk["learned"][-1]).norm(dim=1)
    modes = [result.target.responsibilities(walk[name][-1]).argmax(1) for name in walk]
    same = float((modes[0] == modes[1]).double().mean())
    small = TIMES.index(min(SHOWN))
    count = len(walk["exact"][-1])
    return "\n".join(
        [
            f"The relative error, √(E‖ŝ − s‖²/E‖s‖²), of a field learned by {result.weights:,} weights:",
            fields,
            "",
            f"{count:,} particles at t = 0:",
            lesson.rows(("share on mode", "1", "2", "3", "furthest, in ±"), body),
            "",
            f"The exact field is the gradient of log p_t by automatic differentiation, to {result.gradient:.0e}.",
            f"At t = {TIMES[small]:g} the learned field is off by {100 * result.under[small]:.1f} ± "
            f"{100 * result.spread[small]:.1f} % where the particles are, and by {100 * result.over[small]:.0f} % over "
            "the box.",
            f"From the same noise, {100 * same:.1f} % of the particles end on the same mode along both fields, "
            f"at a median distance of {float(apart.median()):.3f}.",
            f"The exact field's shares are within {worst['exact']:.1f} standard errors of the truth, the learned "
            f"one's within {worst['learned']:.1f}.",
        ]
    )


def draw(result: Result, theme: Theme) -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    figure = canvas(9.0, 5.5, theme)
    axes = figure.subplots(3, 5, width_ratios=(1, 1, 1, 1, 1.15))
    box, at = (-HALF, HALF, -HALF, HALF), plane(ARROWS)
    shade = LinearSegmentedColormap.from_list("shade", [theme.paper, COLORS[5]], 12)
    heat = LinearSegmentedColormap.from_list("heat", [theme.paper, COLORS[1]], 12)
    flow = result.paths["probability flow"]
    for column, t in enumerate(SHOWN):
        k = TIMES.index(t)
        density = result.density[k].numpy()
        for axis, (name, field) in zip(axes[:, column], result.arrows.items()):
            axis.imshow((density / density.max()) ** 0.5, cmap=shade, vmin=0, vmax=1.4, extent=box, origin="lower")
            arrows = field[k]
            axis.quiver(*at.T, *arrows.T, color=theme.ink, angles="xy", scale_units="xy",
                        scale=float(arrows.norm(dim=1).quantile(0.9)) / 0.5, width=0.006)  # fmt: skip
            axis.scatter(*flow[name][k, :150].T, s=2.5, color=COLORS[1], linewidths=0, zorder=3)
        error = axes[2, column].imshow(result.off[k].numpy(), cmap=heat, vmin=0, vmax=1, extent=box, origin="lower")
        for axis in axes[:, column]:
            axis.contour(density, [float(result.mass[k])], extent=box, colors=theme.faint, linewidths=0.7)
        axes[0, column].set_title(f"t = {t:g}, σ = {float(PROCESS.sigma(t)):.2f}", fontsize=8.5)
    for axis, (name, path) in zip(axes[:, 4], flow.items()):
        for line in path[:, :40].transpose(0, 1):
            axis.plot(*line.T, color=theme.ink, linewidth=0.45, alpha=0.6)
        axis.scatter(*path[-1, :40].T, s=8, color=COLORS[1], linewidths=0, zorder=3)
        axis.set_title(f"40 paths, {name}", fontsize=8.5)
    for axis in [*axes[:, :4].ravel(), *axes[:2, 4]]:
        axis.set(xlim=(-HALF, HALF), ylim=(-HALF, HALF), aspect="equal", xticks=[-2, 0, 2], yticks=[-2, 0, 2])
        axis.tick_params(labelbottom=axis in axes[2, :4], labelleft=axis in axes[:, 0])
        dress(axis, theme, grid=False)
    for axis, name in zip(axes[:, 0], ("exact", "learned", "σ ‖learned − exact‖")):
        axis.set_ylabel(name, fontsize=8.5, color=theme.ink)
    bar = figure.colorbar(error, cax=axes[2, 3].inset_axes((0.86, 0.1, 0.06, 0.8)), ticks=[0, 0.5, 1], extend="max")
    bar.ax.yaxis.set_ticks_position("left")
    bar.ax.tick_params(colors=theme.ink, labelsize=8)
    bar.outline.set_visible(False)
    last = axes[2, 4]
    for line, name, color, style in (
        (result.over, "over the box", COLORS[1], STYLES[1]),
        (result.under, "under p_t", COLORS[0], "-"),
    ):
        last.plot(TIMES, line, color=color, linestyle=style, linewidth=1.6, label=name)
    last.set(xscale="log", yscale="log", xlabel="t")
    last.minorticks_off()
    last.set_title("relative error", fontsize=8.5)
    last.xaxis.label.set_fontsize(8.5)
    last.legend(fontsize=7.5, handlelength=1.8)
    dress(last, theme)
    return figure


def scene(result: Result) -> Scene:
    """Slide t; choose how the particles walk."""
    shown = 300
    laws = [result.target.marginal(PROCESS, t) for t in TIMES]

    def share(name: str) -> Tensor:  # (T, walks, modes)
        walks = ([shares(law, x)[0] for law, x in zip(laws, walk[name])] for walk in result.paths.values())
        return torch.stack([torch.stack(walk) for walk in walks], 1)

    found = {name: share(name) for name in result.arrows}
    rows: dict[str, Any] = {"learned field's error under p_t, %": 100 * result.under[:, None].numpy()}
    for mode, weight in enumerate(result.target.weights.tolist()):
        for name, values in found.items():
            rows[f"{name}: share on mode {mode + 1} (truth {weight:g})"] = values[..., mode].numpy()
    unit = result.arrows["exact"].norm(dim=2).quantile(0.9, dim=1)[:, None, None]
    planes = [
        Plane(
            f"{name.capitalize()} field", (-HALF, HALF, -HALF, HALF), result.density[:, None].numpy(),
            {"particles": torch.stack([walk[name][:-1, :shown] for walk in result.paths.values()], 1).numpy()},
            {"score, in a unit of each t": (field / unit)[:, None].numpy()}, plane(ARROWS).numpy(),
        )
        for name, field in result.arrows.items()
    ]  # fmt: skip
    errors = {"under p_t": result.under, "over the box": result.over}
    times = torch.tensor(TIMES, dtype=torch.float64)
    error = Lines(
        "The learned field's relative error", times.flip(0).numpy(),
        {name: line.flip(0)[None, None].numpy() for name, line in errors.items()},
        "t", "", mark=times[:, None].numpy(), log="xy",
    )  # fmt: skip
    return Scene(
        "The score field",
        "Arrows: ∇log p_t; shade: p_t; dots: particles, from the same noise along the exact and the learned field.",
        [
            Control("t", [f"{t:g}" for t in TIMES], "slider", TIMES.index(0.3)),
            Control("particles", list(result.paths), "choice"),
        ],
        [*planes, error, Numbers(rows)],
    )


if __name__ == "__main__":
    lesson.main(Path(__file__).stem, __doc__, measure, table, draw)
