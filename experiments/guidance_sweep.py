"""Guidance narrows, at first on the modes and then beyond them, and does not sample the density it is said to sample.

Two classes on a line, the second with two modes. Its exact conditional model is guided with weights w from −1 to 8:
by the model without its condition (CFG), the same at middle noise levels only (interval), and by a model of blurred
data (autoguidance). Left: the share of samples on the class's modes against their standard deviation, w along the
curves. Middle: what is sampled at w = 3. Right: how far the samples are from p(x | y)^w p(x)^(1−w), to which the
guided score at t = 0 belongs: nothing at w = 1, and for CFG at w = 0; beyond w = 2 CFG is further from it than its own
width. Samples are the flow's, from evenly spaced quantiles of the noise, so that no number has an error of chance; the
reverse SDE with the same guided score samples yet another density.

    python experiments/guidance_sweep.py [--out runs/figures] [--device cpu] [--quick]

References: Ho and Salimans (2022), arXiv 2207.12598; Kynkäänniemi et al. (2024), 2404.07724; Karras et al. (2024),
2406.02507; on what guidance samples: Bradley and Nakkiran (2024), 2408.09000; docs/theory, eq. 64-65.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lesson
import numpy as np
import torch
from torch import Tensor

from scoresde import VP, Model, RectifiedFlow, guidance, sample, targets
from scoresde.explore import Control, Lines, Numbers, Scene
from scoresde.plots import COLORS, STYLES, Theme, canvas, dress
from scoresde.samplers import DDIM

WEIGHTS = tuple(np.arange(-1, 8.01, 0.5).tolist())
SHOWN = 3.0
LABEL, WIDTH = 1, 0.4
MODES = (-1.0, 0.4, 1.8)
LEVELS = (0.3, 3.0)
"""Of σ/α, between which the interval guides."""

EXTENT = (-3.6, 5.4)
METHODS = ("CFG", "interval", "autoguidance")


def classes(width: float = WIDTH) -> targets.Labelled:
    mixture = targets.GaussianMixture(torch.tensor([0.5, 0.25, 0.25]).double(), [[m] for m in MODES], width**2)
    return targets.Labelled(mixture, [0, 1, 1])


@dataclass(frozen=True)
class Result:
    """samples: method → (weights, n), sorted; sde: weight → (n,); tilted: (weights, n) quantiles; density of it too."""

    samples: dict[str, np.ndarray]
    sde: dict[float, np.ndarray]
    tilted: np.ndarray
    places: np.ndarray
    densities: np.ndarray


def guided(method: str, weight: float, device: str) -> Model:
    process = RectifiedFlow()
    model = classes().model(process, "velocity").given(label=torch.tensor(LABEL, device=device))
    if method == "autoguidance":
        weak = classes(1.6 * WIDTH).model(process, "velocity").given(label=torch.tensor(LABEL, device=device))
        return guidance.autoguidance(model, weak, weight)
    if method == "interval":
        low, high = (float(process.time(-2 * torch.tensor(level).double().log())) for level in LEVELS)
        return guidance.classifier_free(model, guidance.interval(weight, low, high))
    return guidance.classifier_free(model, weight)


def tilted(weight: float, n: int, places: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles of p(x | y)^w p(x)^(1−w) and its density at places."""
    law = classes().tilted(LABEL, weight)
    fine = torch.linspace(-12, 12, 48_001, dtype=torch.float64)[:, None]
    cumulative = law.log_prob(fine).exp().cumsum(0) * float(fine[1, 0] - fine[0, 0])
    quantiles = np.interp((np.arange(n) + 0.5) / n, cumulative.numpy(), fine[:, 0].numpy())
    return quantiles, law.log_prob(places[:, None]).exp().numpy()


def measure(quick: bool = False, device: str = "cpu") -> Result:
    n, steps = (400, 40) if quick else (4000, 100)
    places = torch.linspace(*EXTENT, 181, dtype=torch.float64)
    start = torch.special.ndtri((torch.arange(n, dtype=torch.float64, device=device) + 0.5) / n)[:, None]
    drawn = {
        method: np.stack(
            [np.sort(sample(guided(method, w, device), x=start, steps=steps)[:, 0].cpu()) for w in WEIGHTS]
        )
        for method in METHODS
    }
    sde = {}
    for w in (1.0, SHOWN):
        model = guided("CFG", w, device).on(VP())
        generator = torch.Generator(device).manual_seed(0)
        x = sample(model, (10 * n, 1), DDIM(eta=1.0), 60 if quick else 500, generator=generator)
        sde[w] = np.sort(x[:, 0].cpu().double().numpy())
    aims = [tilted(w, n, places) for w in WEIGHTS]
    return Result(drawn, sde, np.stack([q for q, _ in aims]), places.numpy(), np.stack([d for _, d in aims]))


def on_modes(x: np.ndarray) -> np.ndarray:
    """The share of samples within two deviations of one of the class's modes: (..., n) -> (...)."""
    return (np.abs(x[..., None] - np.array(MODES[1:])) < 2 * WIDTH).any(-1).mean(-1)


def distance(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Wasserstein-1 between equally many sorted samples: (..., n) -> (...)."""
    return np.abs(x - y).mean(-1)


def table(result: Result) -> str:
    rows = []
    for i, w in enumerate(WEIGHTS):
        if w in (-1, 0, 1, 1.5, 2, 3, 5, 8):
            row: list[Any] = [f"{w:g}"]
            for x in (*(result.samples[m][i] for m in METHODS), result.tilted[i]):
                row += [f"{on_modes(x):.3f}", f"{x.std():.3f}"]
            rows.append([*row, *(f"{distance(result.samples[m][i], result.tilted[i]):.4f}" for m in METHODS)])
    head = ["w"]
    for name in ("CFG", "int.", "auto", "tilted"):
        head += [f"{name}: on", "σ"]
    head += ["W1: CFG", "int.", "auto"]
    at = WEIGHTS.index
    exact = max(distance(result.samples["CFG"][at(w)], result.tilted[at(w)]) for w in (0.0, 1.0))
    i = at(SHOWN)
    cfg, aim = result.samples["CFG"][i], result.tilted[i]
    n = len(next(iter(result.sde.values())))
    middle = (np.arange(n) + 0.5) / n
    other = np.interp(middle, (np.arange(len(cfg)) + 0.5) / len(cfg), cfg)
    apart = {w: (x.mean(), x.std() / math.sqrt(n)) for w, x in result.sde.items()}
    return "\n".join([
        lesson.rows(head, rows),
        "",
        f"CFG with w = 0 and w = 1 samples p(x) and p(x | y): W1 at most {exact:.1g} of {len(cfg)} exact quantiles.",
        f"w = {SHOWN:g}: CFG's samples have mean {cfg.mean():.3f}, σ {cfg.std():.3f}; "
        f"p(x | y)^w p(x)^(1−w) has {aim.mean():.3f}, {aim.std():.3f}: W1 {distance(cfg, aim):.3f}.",
        f"The reverse SDE with the same guided score: mean {apart[SHOWN][0]:.3f} ± {apart[SHOWN][1]:.3f}, "
        f"σ {result.sde[SHOWN].std():.3f}, W1 to the flow's samples {np.abs(result.sde[SHOWN] - other).mean():.3f}; "
        f"at w = 1 its mean is {apart[1.0][0]:.3f} ± {apart[1.0][1]:.3f}, that of p(x | y) {np.mean(MODES[1:]):.3f}.",
    ])  # fmt: skip


def smooth(x: np.ndarray, places: np.ndarray) -> np.ndarray:
    """A density of sorted quantiles: one over the spacing of their percentiles."""
    step = max(1, len(x) // 100)
    ends = np.append(x[::step], x[-1])
    heights = step / len(x) / np.maximum(np.diff(ends), 1e-9)
    return np.interp(places, (ends[1:] + ends[:-1]) / 2, heights, left=0.0, right=0.0)


def draw(result: Result, theme: Theme) -> Any:
    figure = canvas(9.0, 3.3, theme)
    left, middle, right = figure.subplots(1, 3, width_ratios=(1.15, 1.2, 1))
    looks = dict(zip((*METHODS, "tilted"), zip((*COLORS[:3], theme.ink), STYLES)))
    curves = {**result.samples, "tilted": result.tilted}
    for name, x in curves.items():
        color, style = looks[name]
        left.plot(x.std(-1), on_modes(x), color=color, linestyle=style, linewidth=1.4)
        for w in (-1.0, 0.0, 3.0, 8.0):
            i = WEIGHTS.index(w)
            left.plot(x[i].std(), on_modes(x[i]), "o", color=color, markersize=3.2)
            if name == "CFG":
                said, spot = f"{w:g}".replace("-", "−"), (x[i].std(), on_modes(x[i]))
                left.annotate(said, spot, (4, -9), textcoords="offset points", fontsize=8, color=theme.ink)
    left.set(xlabel="σ of the samples", ylabel="share on the class's modes", title="fidelity against diversity, by w")
    i = WEIGHTS.index(SHOWN)
    middle.fill_between(result.places, result.densities[WEIGHTS.index(1.0)], color=theme.faint, alpha=0.35, linewidth=0)
    middle.text(-0.35, 0.2, "p(x | y)", fontsize=8.5, color=theme.ink, ha="right")
    for name in (*METHODS, "tilted"):
        color, style = looks[name]
        y = result.densities[i] if name == "tilted" else smooth(result.samples[name][i], result.places)
        middle.plot(result.places, y, color=color, linestyle=style, linewidth=1.4)
    middle.set(xlabel="x", ylabel="density", title=f"what w = {SHOWN:g} samples", ylim=(0, None), xlim=(-2, 4.6))
    for name in METHODS:
        color, style = looks[name]
        far = distance(result.samples[name], result.tilted)
        right.plot(WEIGHTS, far, color=color, linestyle=style, linewidth=1.0, marker="o", markersize=2.8)
    right.set(xlabel="weight w", ylabel="W₁ to p(x | y)^w p(x)^(1−w)", title="distance to the tilted law", yscale="log")
    from matplotlib.lines import Line2D

    said = {"tilted": "p(x | y)$^w$ p(x)$^{1-w}$"}
    handles = [Line2D([], [], color=c, linestyle=s, label=said.get(n, n)) for n, (c, s) in looks.items()]
    legend = figure.legend(handles=handles, loc="outside lower center", ncols=4, frameon=False, fontsize=9)
    for text in legend.get_texts():
        text.set_color(theme.ink)
    for axis in (left, middle, right):
        axis.title.set_fontsize(9.5)
        dress(axis, theme)
    return figure


def scene(result: Result) -> Scene:
    places, step = result.places, result.places[1] - result.places[0]
    edges = np.append(places - step / 2, places[-1] + step / 2)[::3]
    middles = (edges[1:] + edges[:-1]) / 2

    def histogram(x: np.ndarray) -> np.ndarray:
        return np.histogram(x, edges)[0] / len(x) / (edges[1] - edges[0])

    bars = np.array([[histogram(x) for x in result.samples[method]] for method in METHODS])
    aim = np.array([np.interp(middles, places, density) for density in result.densities])[None]
    given = aim[:, [WEIGHTS.index(1.0)]]
    x = np.stack([result.samples[method] for method in METHODS])
    return Scene(
        title="Guidance: fidelity against diversity",
        about="Two classes on a line; the second, with two modes, is sampled with guidance of weight w. "
        "At w = 1 the samples are those of p(x | y); beyond, they are not those of p(x | y)^w p(x)^(1−w).",
        controls=[
            Control("guided by", [*METHODS], "choice"),
            Control("w", [f"{w:g}" for w in WEIGHTS], start=WEIGHTS.index(SHOWN)),
        ],
        panels=[
            Lines(
                "samples, and what they are said to be", middles,
                {"p(x | y)": given, "p(x | y)^w p(x)^(1−w)": aim}, "x", "density", bars={"samples": bars}, low=0.0,
            ),
            Numbers(
                {
                    "share on the class's modes": on_modes(x),
                    "σ of the samples": x.std(-1),
                    "σ of p(x | y)^w p(x)^(1−w)": result.tilted.std(-1)[None],
                    "W₁ between them": distance(x, result.tilted[None]),
                }
            ),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    lesson.main(Path(__file__).stem, __doc__ or "", measure, table, draw)
