"""One picture under every forward process, and the exact times at which its signal-to-noise ratio falls.

x_t = α(t) x₀ + σ(t) ε. The picture has mean 0 and variance 1, so that SNR = α²/σ² is the ratio of the signal's variance
to the noise's. Left: x_t/√(α² + σ²), the same noise throughout; each row is a process, each column a share of its time.
At equal SNR all processes show the same picture, to rounding: they differ in when, not in what. Right: β = −2 α̇/α, α,
σ and SNR; dots mark where SNR passes 100, 1 and 1/100. The times are `process.time(log SNR)`, checked against closed
forms written out here (for linear β a quadratic equation) and, for DDPM's chain, against the product of its 1 − β.
Linear β spends its signal early: for a third of its time the picture is gone. Cosine and sigmoid are even about SNR 1.

    python experiments/forward_process.py [--out runs/figures] [--device cpu] [--quick]

Reference: Ho et al. (2020), arXiv 2006.11239, eq. 4; Nichol and Dhariwal (2021), 2102.09672, sec. 3.2; Jabri et al.
(2022), 2212.11972 (sigmoid); Song et al. (2021), 2011.13456, eq. 9-12; Karras et al. (2022), 2206.00364, table 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lesson
import torch
from matplotlib import colormaps
from torch import Tensor

from scoresde import EDM, VE, VP, Cosine, Process, RectifiedFlow, Sigmoid, SubVP, data, ddpm
from scoresde.explore import Control, Lines, Numbers, Picture, Scene
from scoresde.plots import COLORS, STYLES, Theme, canvas, dress

PROCESSES: dict[str, Process] = {
    "VP": VP(), "ddpm": ddpm(), "SubVP": SubVP(), "Cosine": Cosine(), "Sigmoid": Sigmoid(),
    "RectifiedFlow": RectifiedFlow(), "VE": VE(), "EDM": EDM(),
}  # fmt: skip
KNOWN = {"VP": "linear β", "ddpm": "linear β, T = 1000", "RectifiedFlow": "straight path"}
LEVELS = (100.0, 10.0, 1.0, 0.1, 0.01, 0.001)
COLUMNS = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.8)
"""Shares of t_max drawn."""

TOLERANCE = 1e-12
"""Of a time: the closed forms below lose up to two digits of float64 where α or σ is small."""

SIDE, POSITIONS, PATCH = 32, 41, 2  # the third patch of 300 × 300 is a portrait
GREYS = 20  # shades, so that pictures of noise stay small files


def _cosine(snr: float, s: float = 0.008) -> float:
    angle = math.acos(math.cos(s / (1 + s) * math.pi / 2) * math.sqrt(snr / (1 + snr)))
    return angle * 2 / math.pi * (1 + s) - s


def _sigmoid(snr: float) -> float:
    high, low = 1 / (1 + math.exp(-3)), 1 / (1 + math.exp(3))
    level = high - snr / (1 + snr) * (high - low)
    return (math.log(level / (1 - level)) + 3) / 6


def _quadratic(integral: float, low: float = 0.1, high: float = 20.0) -> float:
    """t where low t + (high − low) t²/2 = integral."""
    return (math.sqrt(low**2 + 2 * (high - low) * integral) - low) / (high - low)


CLOSED: dict[str, Callable[[float], float]] = {
    "VP": lambda snr: _quadratic(math.log1p(1 / snr)),
    "SubVP": lambda snr: _quadratic(2 * math.asinh(1 / (2 * math.sqrt(snr)))),
    "Cosine": _cosine,
    "Sigmoid": _sigmoid,
    "RectifiedFlow": lambda snr: 1 / (1 + math.sqrt(snr)),
    "VE": lambda snr: math.log(1 / (math.sqrt(snr) * 0.01)) / math.log(50 / 0.01),
    "EDM": lambda snr: 1 / math.sqrt(snr),
}
"""SNR → t, each solved by hand."""


@dataclass(frozen=True)
class Result:
    """image: (SIDE, SIDE). strips, frames: name → x_t/√(α² + σ²) at COLUMNS, and at even shares of t_max.

    times: name → t at LEVELS. closed: the largest |t − closed form|. same: the largest difference at SNR 1. steps: the
    chain's first step (from 1) below each level, by its table. drawn: name → measured log SNR at SNR 1; error: its
    standard error.
    """

    image: Tensor
    strips: dict[str, Tensor]
    frames: dict[str, Tensor]
    times: dict[str, list[float]]
    closed: float
    same: float
    steps: list[int]
    drawn: dict[str, float]
    error: float


def measure(quick: bool, device: str) -> Result:
    patch, _ = data.load("patches", size=300).batch(torch.tensor([PATCH]))
    image = torch.nn.functional.interpolate(patch.double(), (SIDE, SIDE), mode="area")[0, 0].to(device)
    image = (image - image.mean()) / image.std(correction=0)
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(device)
    levels = torch.tensor(LEVELS, dtype=torch.float64)
    times = {name: process.time(levels.log()).tolist() for name, process in PROCESSES.items()}
    off = [abs(times[name][i] - form(snr)) for name, form in CLOSED.items() for i, snr in enumerate(LEVELS)]
    even = torch.linspace(0, 1, 5 if quick else POSITIONS, dtype=torch.float64)
    columns = torch.tensor(COLUMNS, dtype=torch.float64)
    one = torch.zeros(1, dtype=torch.float64)  # log SNR
    equal = torch.cat([_shown(p, image, noise, p.time(one)) for p in PROCESSES.values()])
    copies = 16 if quick else 256
    count = copies * image.numel()
    return Result(
        image.cpu(),
        {name: _shown(p, image, noise, columns * p.t_max).cpu() for name, p in PROCESSES.items()},
        {name: _shown(p, image, noise, even * p.t_max).cpu() for name, p in PROCESSES.items()},
        times,
        max(off),
        float((equal - equal[:1]).abs().max()),
        _crossings(PROCESSES["ddpm"].betas),  # pyright: ignore[reportAttributeAccessIssue]
        {name: _drawn(p, image, copies, seed) for seed, (name, p) in enumerate(PROCESSES.items(), 1)},
        math.sqrt(6 / count),
    )


def _shown(process: Process, image: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """x_t/√(α² + σ²) at t: (N,), with the same noise."""
    x, _ = process.perturb(image.expand(len(t), -1, -1), t.to(image.device), noise.expand(len(t), -1, -1))
    return x / torch.hypot(process.alpha(t), process.sigma(t)).to(x.device)[:, None, None]


def _crossings(betas: Any) -> list[int]:
    """By the chain's table alone: the first step k = 1..T with Πα/(1 − Πα) below each level."""
    kept = torch.log1p(-torch.tensor(betas, dtype=torch.float64)).cumsum(0)
    ratio = kept.exp() / -torch.expm1(kept)
    return [int((ratio >= level).sum()) + 1 for level in LEVELS]


def _drawn(process: Process, image: Tensor, copies: int, seed: int) -> float:
    """log SNR of drawn x_t at the t where it should be 0: of the least-squares α and what is left.

    α̂ has variance σ²/N and log σ̂² has 2/N, independent, so that log SNR has 4/N + 2/N at SNR 1.
    """
    x0 = image.expand(copies, -1, -1)
    generator = torch.Generator(image.device).manual_seed(seed)
    x, _ = process.perturb(x0, float(process.time(0.0)), generator=generator)
    alpha = (x * x0).sum() / x0.square().sum()
    return float(alpha.square().log() - (x - alpha * x0).square().mean().log())


def table(result: Result) -> str:
    names = list(PROCESSES)
    head = ("t where SNR =", *(f"{level:g}" for level in LEVELS), "SNR drawn at SNR = 1")
    body = [
        (f"{name} ({KNOWN[name]})" if name in KNOWN else name, *(f"{t:.6f}" for t in result.times[name]),
         f"{math.exp(result.drawn[name]):.4f}")
        for name in names
    ]  # fmt: skip
    body.insert(2, ("  its step, of 1000", *map(str, result.steps), ""))
    late = {name: 1 - result.times[name][LEVELS.index(0.01)] for name in ("VP", "Cosine", "Sigmoid")}
    half = {name: result.times[name][LEVELS.index(1.0)] for name in late}
    said = ["linear β", "cosine", "sigmoid"]
    inside = max(map(abs, result.drawn.values())) / result.error
    chain = [math.ceil(1000 * t - 1e-9) for t in result.times["ddpm"]]
    count = len(CLOSED) * len(LEVELS)
    return "\n".join(
        [
            lesson.rows(head, body),
            "",
            f"All {count} times of the continuous processes equal their closed forms to {result.closed:.0e} "
            f"({'within' if result.closed < TOLERANCE else 'BEYOND'} {TOLERANCE:.0e}, rounding).",
            f"DDPM's chain passes each level at {'the' if chain == result.steps else 'ANOTHER than the'} "
            "step that ⌈1000 t⌉ says.",
            f"At SNR 1 the pictures of all {len(names)} processes differ by at most {result.same:.0e}.",
            f"Drawn pictures have SNR 1 within {inside:.1f} standard errors (of {result.error:.4f}), at most.",
            "SNR falls below 1 at t = " + ", ".join(f"{t:.3f} ({s})" for t, s in zip(half.values(), said))
            + "; below 1/100, where the picture is gone,",
            "for the last " + ", ".join(f"{100 * share:.0f} % ({s})" for share, s in zip(late.values(), said))
            + " of the time.",
        ]
    )  # fmt: skip


def pens(theme: Theme) -> dict[str, dict[str, Any]]:
    """Colour and dash of each process; ddpm is dots upon VP, whose limit it is."""
    colors = dict(zip(("VP", "VE", "Cosine", "Sigmoid", "EDM", "SubVP"), COLORS))
    colors |= {"ddpm": theme.ink, "RectifiedFlow": theme.faint}
    dashes = dict(zip(("VP", "VE", "Cosine", "Sigmoid", "EDM", "SubVP"), (*STYLES[:3], "-", STYLES[5], STYLES[1])))
    dashes |= {"ddpm": (0, (0.1, 4)), "RectifiedFlow": "-"}
    return {
        name: {
            "color": colors[name], "linestyle": dashes[name], "linewidth": 2.2 if name == "ddpm" else 1.5,
            "dash_capstyle": "round" if name == "ddpm" else "butt", "zorder": 4 if name == "ddpm" else 3,
        }
        for name in PROCESSES
    }  # fmt: skip


def draw(result: Result, theme: Theme) -> Any:
    figure = canvas(9.0, 4.9, theme)
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1))
    pen, grey = pens(theme), colormaps["gray"].resampled(GREYS)
    left.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0.02, hspace=0.02)
    axes = left.subplots(len(PROCESSES), len(COLUMNS) + 1, width_ratios=(1.35, *[1] * len(COLUMNS)))
    for axis in axes.ravel():
        axis.set_axis_off()
    for line, (name, strip) in zip(axes, result.strips.items()):
        line[0].text(0.0, 0.62, name, color=theme.ink, fontsize=8.5, va="center", transform=line[0].transAxes)
        line[0].plot([0.0, 0.7], [0.22, 0.22], transform=line[0].transAxes, clip_on=False, **pen[name])
        for axis, x in zip(line[1:], strip):
            axis.imshow(x.numpy(), cmap=grey, vmin=-2.2, vmax=2.2, interpolation="nearest")
    axes[0, 0].set_title("t / t_max", fontsize=8.5, color=theme.ink, loc="left")
    for axis, share in zip(axes[0, 1:], COLUMNS):
        axis.set_title(f"{share:g}", fontsize=8.5, color=theme.ink)
    share = torch.linspace(0, 1, 401, dtype=torch.float64)[1:-1]
    panels = right.subplots(2, 2, sharex=True).ravel()
    for name, process in PROCESSES.items():
        t = share * process.t_max
        alpha, sigma, beta = process.alpha(t), process.sigma(t), -2 * process.drift(t)
        curves = (beta if bool((beta > 0).all()) else None, alpha, sigma, process.logsnr(t).exp())
        for axis, curve in zip(panels, curves):
            if curve is not None:
                axis.plot(share, curve, **pen[name])
        marks = [(result.times[name][i] / process.t_max, LEVELS[i]) for i in (0, 2, 4)]
        marks = [place for place in marks if 0 < place[0] < 1]
        if name != "ddpm":
            panels[3].plot(*zip(*marks), "o", color=pen[name]["color"], markersize=3.2, zorder=5)
    for level in (100, 1, 0.01):
        panels[3].axhline(level, color=theme.faint, linewidth=0.7, alpha=0.6)
    titles = ("β, decay of the signal", "α, signal", "σ, noise", "SNR = α²/σ²")
    for axis, title, low, high in zip(panels, titles, (0.05, 0.0, 0.003, 1e-5), (500, 1.04, 120, 1e5)):
        axis.set_title(title, fontsize=8.5, loc="left", color=theme.ink)
        if low:
            axis.set_yscale("log")
        axis.set(xlim=(0, 1), ylim=(low, high))
        axis.set_xticks([0, 0.25, 0.5, 0.75, 1], ["0", "¼", "½", "¾", "1"])
        dress(axis, theme)
    panels[0].text(0.42, 0.075, "VE, EDM: β = 0", color=theme.faint, fontsize=8)
    for axis in panels[2:]:
        axis.set_xlabel("t / t_max", fontsize=8.5, color=theme.ink)
    return figure


def scene(result: Result) -> Scene:
    """Slide t; choose the process."""
    places = torch.linspace(0, 1, len(next(iter(result.frames.values()))), dtype=torch.float64)
    share = torch.linspace(0.005, 0.995, 100, dtype=torch.float64)

    def over(function: Callable[[Process, Tensor], Tensor], at: Tensor, curve: bool = True) -> Any:
        values = torch.stack([function(p, at * p.t_max) for p in PROCESSES.values()])
        return (values[:, None] if curve else values).numpy()

    snr = lambda p, t: p.logsnr(t).exp()  # noqa: E731
    reference = {name: snr(PROCESSES[name], share)[None, None].numpy() for name in ("VP", "Cosine")}
    curves = {
        "α, signal": over(lambda p, t: p.alpha(t), share),
        "σ, noise": over(lambda p, t: p.sigma(t), share),
        "g², noise added per unit t": over(lambda p, t: p.diffusion(t).square(), share),
    }
    numbers = {
        "t": over(lambda p, t: t, places, False),
        "α": over(lambda p, t: p.alpha(t), places, False),
        "σ": over(lambda p, t: p.sigma(t), places, False),
        "noise's share of the variance, %": over(lambda p, t: 100 * torch.sigmoid(-p.logsnr(t)), places, False),
    }
    mark = places[None].numpy()
    return Scene(
        "The forward process",
        "x_t = α x₀ + σ ε, shown at unit variance, always with the same noise. Choose a process, slide its time.",
        [
            Control("process", list(PROCESSES), "choice"),
            Control("t / t_max", [f"{place:.3f}" for place in places], "slider", len(places) // 10),
        ],
        [
            Picture("x_t / √(α² + σ²)", torch.stack(list(result.frames.values())).numpy(), -2.2, 2.2),
            Lines("Scales", share.numpy(), curves, "t / t_max", "", mark=mark, log="y", low=1e-3, high=1e3),
            Lines(
                "Signal-to-noise ratio", share.numpy(), {"this process": over(snr, share), **reference},
                "t / t_max", "SNR", mark=mark, log="y", low=1e-5, high=1e5,
            ),
            Numbers(numbers),
        ],
    )  # fmt: skip


if __name__ == "__main__":
    lesson.main(Path(__file__).stem, __doc__, measure, table, draw)
