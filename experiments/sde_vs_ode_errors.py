"""The SDE forgives early errors of the score and enlarges late ones; the ODE does neither, and η is the dial between.

The exact noise prediction gets a bias in a window of log-SNR, the same for every x and of the same L2 size wherever the
window is, and the reverse equation dx = [f x − ½(1 + η²) g² score] dt + η g dw̄ is solved so finely that nothing else is
wrong. For normal data N(m, s²) what comes of it is known: y = x/α obeys a linear equation against ρ² = σ²/α², so that
an error e(ρ) of the noise prediction moves every sample by

    δ = −(1 + η²) ∫ e(ρ) (1 + ρ²/s²)^{−(1+η²)/2} dρ

Late, ρ ≪ s, the bracket is 1 and the dial multiplies: (1 + η²). Early, ρ ≫ s, it forgives: ρ^{−η²}, nothing for the
ODE. A narrow window is worth the same to the ODE and to η at ρ/s = √((1 + η²)^{2/η²} − 1), √3 for η = 1. And
by Girsanov KL ≤ (1 + η²)²/(8η²) ∫ e² dlog-SNR, least for η = 1, infinite for the ODE. Left: the shift, formula and
measured. Middle: two modes, where an early error moves weights between them; dotted, the formula with the modes' own s.
Right: errors early, late and both, against the dial.

    python experiments/sde_vs_ode_errors.py [--out runs/figures] [--device cpu] [--quick]

Reference: Song et al. (2021), arXiv 2011.13456, eq. 6 and 13; Chen et al. (2023), 2209.11215 (Girsanov); Nie et al.
(2024), 2311.01410, and Cao et al. (2023), 2306.02063 (SDE against ODE); the formulas are derived here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lesson
import numpy as np
import torch
from line import Line
from torch import Tensor

from scoresde import VP, Model, grids, sample, targets
from scoresde.plots import COLORS, STYLES, Theme, canvas, dress
from scoresde.samplers import DDIM, EulerMaruyama, Exponential, FlowSDE, Sampler

PROCESS = VP()
SIZE, WIDTH = 0.5, 0.5
"""The bias of the noise prediction at the window's middle, and the window's deviation in log-SNR."""
ETAS, DIAL = (0.0, 0.5, 1.0, 1.5), (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)
MIDDLES = tuple(range(-8, 8))
EARLY, LATE = -5, 4
STEPS, FINE, DRAWS, QUANTILES = 150, 8, 20_000, 2048
"""Steps; how many times as many samplers of order 1 take; samples; points of the ODE."""
SPREAD = 0.5
"""s of the normal data."""
LINE = Line((0.3, 0.7), (-1.0, 1.0), (0.2, 0.2))


@dataclass(frozen=True)
class Bias:
    """Adds SIZE Σ exp(−(log-SNR − middle)²/2 width²) to a noise prediction: a function for `Model.wrap`."""

    middles: tuple[float, ...]
    width: float = WIDTH

    def at(self, logsnr: Any) -> Any:
        return SIZE * sum(np.exp(-((logsnr - middle) ** 2) / (2 * self.width**2)) for middle in self.middles)

    def __call__(self, model: Model, x: Tensor, t: Tensor) -> Tensor:
        return model(x, t) + self.at(model.process.at("logsnr", float(t[0])))

    @property
    def square(self) -> float:
        """∫ e² dlog-SNR, for windows that do not meet."""
        return len(self.middles) * SIZE**2 * self.width * math.sqrt(math.pi)

    def shift(self, eta: float, s: float) -> float:
        """δ of normal data, by quadrature: dρ = ½ρ dlog-SNR."""
        logsnr = np.linspace(min(self.middles) - 8 * self.width, max(self.middles) + 8 * self.width, 4001)
        rho = np.exp(-logsnr / 2)
        weight = (1 + (rho / s) ** 2) ** (-(1 + eta**2) / 2)
        return -(1 + eta**2) * float(np.trapezoid(self.at(logsnr) * weight * rho / 2, logsnr))

    def early(self, line: Line) -> float:
        """W1 that the ODE makes of a bias where there is only noise: it turns z into z − ∫ e dlog ρ for good."""
        u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
        turned = torch.special.ndtri(u) - 0.5 * len(self.middles) * SIZE * self.width * math.sqrt(2 * math.pi)
        return float((line.quantile(torch.special.ndtr(turned)) - line.quantile(u)).abs().mean())


def girsanov(eta: float, square: float) -> float:
    """The bound on KL, in nats, of errors of the noise prediction with ∫ E e² dlog-SNR = square."""
    return (1 + eta**2) ** 2 / (8 * eta**2) * square if eta else math.inf


def crossing(eta: float, s: float) -> float:
    """The log-SNR above which η enlarges what the ODE does not: ρ/s = √((1 + η²)^{2/η²} − 1)."""
    return -math.log(s**2 * ((1 + eta**2) ** (2 / eta**2) - 1))


def stepper(eta: float) -> Exponential:
    """The sampler with this dial: order 3 without noise, else weak order 2."""
    return Exponential(order=2 if eta else 3, eta=eta)


def shifted(model: Model, bias: Bias, sampler: Sampler, steps: int) -> float:
    """The shift of normal data: the same noise with the bias and without, so that there is no chance in it."""
    ends = [
        sample(one, (2, 1), sampler, steps, grids.logsnr, generator=torch.Generator(one.like().device).manual_seed(0))
        for one in (model.wrap(bias), model)
    ]
    return float((ends[0] - ends[1]).mean())


def distance(
    model: Model, eta: float, middles: Sequence[float], steps: int, draws: int, seed: int = 0
) -> tuple[float, float]:
    """W1 to LINE and its standard error; of the ODE, which carries quantiles, without one."""
    wrong, device = model.wrap(Bias(tuple(middles))) if middles else model, model.like().device
    if eta == 0.0:
        noise = LINE.at(PROCESS, PROCESS.t_max).quantiles(QUANTILES)[:, None].to(device)
        x = sample(wrong, None, stepper(0.0), steps, grids.logsnr, x=noise)[:, 0].cpu()
        return float((x.sort().values - LINE.quantiles(QUANTILES)).abs().mean()), 0.0
    generator = torch.Generator(device).manual_seed(seed)
    x = sample(wrong, (draws, 1), stepper(eta), steps, grids.logsnr, generator=generator)[:, 0].cpu()
    return LINE.wasserstein(x)


@dataclass(frozen=True)
class Result:
    middles: tuple[int, ...]
    steps: int
    formula: np.ndarray  # (etas, middles), δ/s of normal data
    measured: np.ndarray  # the same, sampled
    others: dict[str, float]  # sampler -> δ/s of an error at LATE, η = 1, by more steps
    w1: np.ndarray  # (etas, middles, 2), on the two modes, and standard errors
    dials: tuple[float, ...]
    dial: dict[str, np.ndarray]  # which errors -> (dials, 2)
    floor: float


def measure(quick: bool, device: str) -> Result:
    middles, dials, steps, draws = ((EARLY, 0, LATE), ETAS, 80, 2000) if quick else (MIDDLES, DIAL, STEPS, DRAWS)
    normal = targets.Gaussian(torch.tensor([0.3], dtype=torch.float64, device=device), SPREAD**2).model(PROCESS)
    biases = [Bias((middle,)) for middle in middles]
    formula = np.array([[bias.shift(eta, SPREAD) / SPREAD for bias in biases] for eta in ETAS])
    measured = np.array([[shifted(normal, bias, stepper(eta), steps) / SPREAD for bias in biases] for eta in ETAS])
    others = {
        name: shifted(normal, Bias((LATE,)), sampler, FINE * steps) / SPREAD
        for name, sampler in (
            ("DDIM(eta=1)", DDIM(1.0)),
            ("EulerMaruyama", EulerMaruyama()),
            ("FlowSDE", FlowSDE("process")),
        )
    }
    parts = LINE.target.weights, LINE.target.means, LINE.target.variances
    model = targets.GaussianMixture(*(part.to(device) for part in parts)).model(PROCESS)
    w1 = np.array([[distance(model, eta, (middle,), steps, draws) for middle in middles] for eta in ETAS])
    cases = {"none": (), "early": (EARLY,), "late": (LATE,), "both": (EARLY, LATE)}
    dial = {name: np.array([distance(model, eta, at, steps, draws, 1) for eta in dials]) for name, at in cases.items()}
    return Result(tuple(middles), steps, formula, measured, others, w1, dials, dial, LINE.floor(draws))


def table(result: Result) -> str:
    shown = [i for i, middle in enumerate(result.middles) if middle in (-8, EARLY, 0, LATE)]
    windows = [f"{result.middles[i]:+d}" for i in shown]
    wrong = np.abs(result.measured - result.formula)
    own = [Bias((LATE,)).shift(eta, LINE.deviations[0]) for eta in ETAS]
    bounds = [girsanov(eta, Bias((0,)).square) for eta in ETAS]
    kl = 0.5 * (result.measured**2).max(1)
    both = result.dial["both"][:, 0]
    best = result.dials[both.argmin()]
    early = Bias((EARLY,)).early(LINE)
    one = result.dials.index(1.0)
    (value, error), alone = result.dial["late"][one], result.dial["late"][0, 0]
    ratio, left = value / alone, result.dial["early"][one, 0] / result.dial["early"][0, 0]
    return "\n".join([
        f"normal data, s = {SPREAD:g}: shift of the samples over s, formula | measured; window's middle in log-SNR",
        lesson.rows(
            ["η", *windows, "crossing", "most KL", "Girsanov"],
            [[f"{eta:g}", *(f"{result.formula[k, i]:+.4f} | {result.measured[k, i]:+.4f}" for i in shown),
              f"{crossing(eta, SPREAD):+.2f}" if eta else "—", f"{kl[k]:.3f}", f"{bounds[k]:.3f}"]
             for k, eta in enumerate(ETAS)],
        ),
        "(crossing: the log-SNR from which on a narrow window costs more than by the ODE; KL and its bound in nats)",
        f"formula against {result.steps} steps: at most {wrong.max():.1g} apart; other samplers, η = 1 at {LATE:+d}: "
        + ", ".join(f"{name} {value:+.4f}" for name, value in result.others.items()),
        "",
        f"two modes: W1 to the target ± standard error; floor of exact samples {result.floor:.2g}, none for η = 0",
        lesson.rows(
            ["η", *windows],
            [[f"{eta:g}", *(f"{result.w1[k, i, 0]:.3f} ± {result.w1[k, i, 1]:.3f}" for i in shown)]
             for k, eta in enumerate(ETAS)],
        ),
        f"predicted: ODE, early {early:.3f}; at {LATE:+d} "
        + ", ".join(f"{abs(value):.3f} for η = {eta:g}" for eta, value in zip(ETAS, own)),
        "",
        f"the dial on two modes: W1 with an error early ({EARLY:+d}), late ({LATE:+d}), at both, and with none",
        lesson.rows(
            ["η", *result.dial],
            [[f"{eta:g}", *(f"{value[k, 0]:.3f} ± {value[k, 1]:.3f}" for value in result.dial.values())]
             for k, eta in enumerate(result.dials)],
        ),
        "",
        f"Early, the SDE (η = 1) leaves {left:.0%} of the ODE's error; late it makes {ratio:.2f} ± "
        f"{ratio * error / value:.2f} times the ODE's, {own[2] / own[0]:.2f} by the formula.",
        f"With both the best dial tried is η = {best:g}: W1 {both.min():.3f}, and {both[0]:.3f} by the ODE.",
    ])  # fmt: skip


LINES = (STYLES[3], STYLES[1], STYLES[2], STYLES[0])
LOOKS = list(zip((COLORS[0], COLORS[4], COLORS[1], COLORS[3]), STYLES))


def draw(result: Result, theme: Theme) -> Any:
    figure = canvas(9.0, 3.7, theme)
    normal, modes, dial = figure.subplots(1, 3)
    logsnr = np.linspace(result.middles[0], result.middles[-1], 121)
    for k, (eta, (color, style)) in enumerate(zip(ETAS, LOOKS)):
        curve = [abs(Bias((at,)).shift(eta, SPREAD)) / SPREAD for at in logsnr]
        normal.plot(logsnr, curve, color=color, linestyle=style, linewidth=1.6, label=f"η = {eta:g}")
        normal.plot(result.middles, np.abs(result.measured[k]), "o", color=color, markersize=3)
        value, error = result.w1[k].T
        modes.plot(result.middles, value, color=color, linestyle=style, linewidth=1.6, marker="o", markersize=3)
        modes.fill_between(result.middles, value - error, value + error, color=color, alpha=0.2, linewidth=0)
        late = logsnr[logsnr >= LATE - 1]
        modes.plot(
            late, [abs(Bias((at,)).shift(eta, LINE.deviations[0])) for at in late], ":", color=theme.ink, linewidth=1
        )
    for (name, values), color, style in zip(result.dial.items(), (theme.faint, COLORS[2], COLORS[5], theme.ink), LINES):
        value, error = values.T
        dial.plot(
            result.dials, value, color=color, linestyle=style, linewidth=1.6, marker="o", markersize=3, label=name
        )
        dial.fill_between(result.dials, value - error, value + error, color=color, alpha=0.2, linewidth=0)
    modes.axhline(result.floor, color=theme.faint, linewidth=1.0)
    normal.set(yscale="log", ylim=(1e-4, 1))
    modes.set(yscale="log", ylim=(result.floor / 2, 0.6))
    modes.text(7.4, result.floor * 0.93, "floor of exact samples", color=theme.ink, fontsize=8, ha="right", va="top")
    modes.text(7.4, 0.5, "dotted: formula, s of a mode", color=theme.ink, fontsize=8, ha="right", va="center")
    for axis in (normal, modes):
        axis.set_xticks((-8, -4, 0, 4), ("−8\nnoise", "−4", "0", "4\ndata"))
        axis.yaxis.set_major_formatter("{x:g}")
    for axis, title, x, y in (
        (normal, "normal data: formula and samples", "log-SNR of the error", "shift / s"),
        (modes, "two modes", "log-SNR of the error", "W1 to the target"),
        (dial, "two modes: the dial", "η", "W1 to the target"),
    ):
        axis.set_title(title, fontsize=9.5)
        axis.set_xlabel(x, fontsize=9)
        axis.set_ylabel(y, fontsize=9)
    normal.legend(fontsize=8, loc="lower center")
    dial.legend(fontsize=8, title="errors", title_fontsize=8)
    for axis in (normal, modes, dial):
        dress(axis, theme)
    return figure


if __name__ == "__main__":
    lesson.main(Path(__file__).stem, __doc__, measure, table, draw)
