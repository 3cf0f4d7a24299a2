"""Langevin dynamics and separated modes: plain Langevin stays where it began, annealed Langevin does not.

Two modes in the plane, of weights 0.2 and 0.8, and one exact score. Above left: plain Langevin, all chains begun in the
lesser mode, for four distances of the modes. The lines are no fits: the Fokker–Planck equation knows the law of a chain
before a step is made, and Kramers' formula the time in which the weights relax, which grows as exp(barrier). Above
right: the same calls of the network, spent in three ways, from wide noise. Plain Langevin keeps the weights of the
basins it fell into, which the committor predicts; annealed Langevin and predictor–corrector follow the truth of every
noise level (dotted). Below: where they end, and the weights there.

    python experiments/langevin_mixing.py [--out runs/figures] [--device cpu] [--quick]

Reference: Song and Ermon (2019), arXiv 1907.05600, sec. 3.2; Song et al. (2021), 2011.13456, sec. 4.2; Kramers (1940),
Physica 7; Pavliotis (2014), Stochastic Processes and Applications, sec. 7.2 and 7.3.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import lesson
import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

from scoresde import VE, Count, Langevin, Model, sample, solve, targets
from scoresde.plots import COLORS, STYLES, Theme, canvas, dress
from scoresde.samplers import AnnealedLangevin, EulerMaruyama, LangevinCorrector, PredictorCorrector

WEIGHT, DEVIATION = 0.2, 0.25
"""Of the lesser mode, on the left; and of both modes."""
DISTANCES, FAR = (4.0, 5.0, 6.0, 8.0), 16.0
"""Of the modes, in their deviations: of the four on the left, and of the contest."""
PROCESS = VE(sigma_min=0.01, sigma_max=10.0)
STEP, STEPS = 0.1, 1500
"""Langevin steps, in units of the variance of a mode; torchsde's Heun, two calls each, weak order 2."""
CHAINS, LEVELS, INNER, PREDICTED = 4000, 100, 10, 500
CLOSE = 0.01
"""A weight is right within so much."""


@dataclass(frozen=True)
class Wells:
    """Two normal modes at ∓d/2 on the first axis, and what is known of Langevin dynamics between them.

    p(x, y) = p(x) p(y), so that the first coordinate is a diffusion on a line: dx = (log p)' du + √2 dw.
    """

    distance: float  # in deviations

    @property
    def place(self) -> float:
        return self.distance * DEVIATION / 2

    @property
    def variance(self) -> float:
        """Of a mode, with the least noise of the process."""
        return DEVIATION**2 + PROCESS.at("sigma", 0.0) ** 2

    def target(self, device: str = "cpu") -> targets.GaussianMixture:
        means = torch.tensor([[-self.place, 0.0], [self.place, 0.0]], dtype=torch.float64, device=device)
        return targets.GaussianMixture([WEIGHT, 1 - WEIGHT], means, DEVIATION**2)

    def left(self, sigma: float | np.ndarray) -> Any:
        """P(x < 0) at noise level σ, exact."""
        z = torch.special.ndtr(torch.as_tensor(self.place / np.hypot(DEVIATION, sigma)))
        return (WEIGHT * z + (1 - WEIGHT) * (1 - z)).numpy()

    @cached_property
    def line(self) -> tuple[np.ndarray, np.ndarray]:
        """Places, and −log p there."""
        reach = self.place + 6 * DEVIATION
        x = np.linspace(-reach, reach, 801)
        sides = (
            math.log(w) - (x - m) ** 2 / 2 / self.variance for w, m in ((WEIGHT, -self.place), (1 - WEIGHT, self.place))
        )
        return x, 0.5 * math.log(2 * math.pi * self.variance) - np.logaddexp(*sides)

    @cached_property
    def modes(self) -> tuple[np.ndarray, np.ndarray]:
        """Eigenvalues of the Fokker–Planck equation on the line, the largest (zero) last, and eigenvectors.

        Jumps between neighbours at rates √(p'/p)/dx² have p as their equilibrium, and scaled by √p they are symmetric.
        """
        x, v = self.line
        up, dx = np.exp(-np.diff(v) / 2), x[1] - x[0]
        out = np.r_[up, 0.0] + np.r_[0.0, 1 / up]
        return eigh_tridiagonal(-out / dx**2, np.full(len(x) - 1, 1 / dx**2))

    def share(self, times: np.ndarray) -> np.ndarray:
        """P(x < 0) at times u, from the left mode: exact."""
        (x, v), (values, vectors) = self.line, self.modes
        begun = np.exp(-((x + self.place) ** 2) / 2 / self.variance + v / 2)
        began = vectors.T @ begun * np.exp(np.outer(times, values))
        law = began @ vectors.T * np.exp(-v / 2)
        return law @ ((x < 0) + 0.5 * (x == 0)) / law.sum(1)

    @property
    def relaxation(self) -> float:
        """The time in which weights relax: 1/gap of the Fokker–Planck equation."""
        return -1 / float(self.modes[0][-2])

    @property
    def barrier(self) -> tuple[int, int, int]:
        """Where on the line the left mode is, the barrier, and the right mode."""
        x, v = self.line
        inside = np.flatnonzero(np.abs(x) <= self.place)
        top = inside[v[inside].argmax()]
        return int(v[:top].argmin()), int(top), int(top + v[top:].argmin())

    @property
    def kramers(self) -> float:
        """The same by Kramers' formula: 1/Σ rates, each √(V''(mode) |V''(barrier)|)/2π exp(V(mode) − V(barrier))."""
        (x, v), (one, top, two) = self.line, self.barrier
        bend = np.gradient(np.gradient(v, x), x)
        return 2 * math.pi / sum(math.sqrt(-bend[m] * bend[top]) * math.exp(v[m] - v[top]) for m in (one, two))

    def committed(self, x: np.ndarray) -> np.ndarray:
        """The chance to fall to the left from x: ∫_x^{right mode} dx/p over ∫_{left mode}^{right mode} dx/p."""
        (places, v), (one, _, two) = self.line, self.barrier
        inverse = np.exp(v[one : two + 1] - v[one : two + 1].max())
        share = 1 - np.r_[0.0, np.cumsum((inverse[1:] + inverse[:-1]) / 2)] / np.sum((inverse[1:] + inverse[:-1]) / 2)
        return np.interp(x, places[one : two + 1], share)


@dataclass(frozen=True)
class Run:
    """One way: calls at the times kept, P(left) measured and true or predicted, and where the chains end, (n, 2)."""

    calls: np.ndarray
    left: np.ndarray
    truth: np.ndarray
    points: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        """Standard errors: chains are independent."""
        return np.sqrt(np.clip(self.left * (1 - self.left), 1 / len(self.points), None) / len(self.points))

    @property
    def off(self) -> float:
        """The end's distance to its truth or prediction, in standard errors of the latter."""
        w = self.truth[-1]
        return float((self.left[-1] - w) / math.sqrt(w * (1 - w) / len(self.points)))


@dataclass(frozen=True)
class Result:
    begun: dict[float, Run]  # distance -> plain Langevin from the lesser mode, beside Fokker–Planck
    ways: dict[str, Run]  # name -> from wide noise, beside the truth at the noise level
    basins: tuple[float, float]  # P(left) that plain Langevin is to keep from its starts, and the chance in it
    needed: float  # calls that it would need, by Kramers
    wells: dict[float, Wells]


def fraction(states: Tensor) -> np.ndarray:
    """P(x < 0) of states (..., n, 2)."""
    return (states[..., 0] < 0).double().mean(-1).cpu().numpy()


def plain(
    model: Model, wells: Wells, x: Tensor, steps: int, seed: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, Tensor]:
    """Times u, calls and P(left) at 31 of them, and the end, of Langevin dynamics at the least noise."""
    count, keep = Count(), np.linspace(0, steps, 31).round().astype(int)
    until, generator = steps * STEP * wells.variance, torch.Generator(x.device).manual_seed(seed)
    dynamics = Langevin(model.wrap(count), t=0.0)
    path = solve(dynamics, x, 0.0, until, "heun", steps=steps, trajectory=True, generator=generator)
    return keep / steps * until, keep * count.calls / steps, fraction(path[keep]), path[-1]


def from_the_lesser(wells: Wells, chains: int, steps: int, device: str) -> Run:
    generator = torch.Generator(device).manual_seed(round(10 * wells.distance))
    x = math.sqrt(wells.variance) * torch.randn(chains, 2, generator=generator, dtype=torch.float64, device=device)
    x[:, 0] -= wells.place
    times, calls, left, end = plain(wells.target(device).model(PROCESS), wells, x, steps, 1)
    return Run(calls, left, wells.share(times), end.cpu().numpy())


def annealed(model: Model, sampler: Any, steps: int, x: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray, Tensor]:
    """Noise levels, calls and P(left) at every time of the sampler's grid, and the end."""
    count, generator = Count(), torch.Generator(x.device).manual_seed(2)
    times = sampler.grid(model, steps)
    states = sample(model.wrap(count), sampler=sampler, steps=steps, x=x, trajectory=True, generator=generator)
    sigma = PROCESS.sigma(times).numpy()
    return np.r_[sigma[:-1], 0.0], np.linspace(0, count.calls, len(times)), fraction(states), states[-1]


def measure(quick: bool, device: str) -> Result:
    distances, chains, steps = ((4.0, 6.0), 1000, 400) if quick else (DISTANCES, CHAINS, STEPS)
    known = {distance: Wells(distance) for distance in (*distances, FAR)}
    begun = {distance: from_the_lesser(known[distance], chains, steps, device) for distance in distances}
    wells = known[FAR]
    model = wells.target(device).model(PROCESS)
    generator = torch.Generator(device).manual_seed(0)
    noise = PROCESS.prior((chains, 2), generator=generator).to(device, torch.float64)
    falls = wells.committed(noise[:, 0].cpu().numpy())
    basins = float(falls.mean()), math.sqrt((falls * (1 - falls)).mean() / chains)
    ways = {}
    _, calls, left, end = plain(model, wells, noise, LEVELS * INNER // 2, 3)
    ways["plain Langevin"] = Run(calls, left, np.full(len(left), WEIGHT), end.cpu().numpy())
    for name, sampler, levels in (
        ("annealed Langevin", AnnealedLangevin(INNER), LEVELS),
        ("predictor–corrector", PredictorCorrector(EulerMaruyama(), LangevinCorrector()), PREDICTED),
    ):
        sigma, calls, left, end = annealed(model, sampler, levels, noise)
        ways[name] = Run(calls, left, wells.left(sigma), end.cpu().numpy())
    calls = 2 / STEP / wells.variance * wells.kramers * math.log(abs(basins[0] - WEIGHT) / CLOSE)
    return Result(begun, ways, basins, calls, known)


def table(result: Result) -> str:
    body, waits = [], []
    for distance, run in result.begun.items():
        wells = result.wells[distance]
        (_, v), (one, top, _) = wells.line, wells.barrier
        waits.append(2 / STEP * wells.relaxation / wells.variance)
        kramers = 2 / STEP * wells.kramers / wells.variance
        body.append([
            f"{distance:g} deviations", f"{v[top] - v[one]:.2f}", f"{waits[-1]:.0f}", f"{kramers:.0f}", said(run),
            f"{run.truth[-1]:.4f}", f"{run.off:+.1f}",
        ])  # fmt: skip
    stuck, way = result.ways["plain Langevin"], result.ways["annealed Langevin"]
    right = [name for name, run in result.ways.items() if abs(run.off) < 4]
    worst = max(abs(run.off) for run in result.begun.values())
    keeps, chance = result.basins
    return "\n".join([
        f"plain Langevin from the lesser mode, {len(stuck.points)} chains: weight (share on the left) after "
        f"{next(iter(result.begun.values())).calls[-1]:.0f} calls",
        lesson.rows(["distance", "barrier", "relaxes in", "Kramers", "weight", "predicted", "off, s.e."], body),
        "(barrier in nats; relaxation in calls, exact and by Kramers' formula; prediction by Fokker–Planck)",
        "",
        f"from wide noise, modes {FAR:g} deviations apart; truth {WEIGHT:g}",
        lesson.rows(
            ["", "calls", "weight", "off, s.e.", "deviation/true"],
            [[name, int(run.calls[-1]), said(run), f"{run.off:+.1f}", f"{run.points[:, 1].std() / DEVIATION:.3f}"]
             for name, run in result.ways.items()],
        ),
        "",
        f"Plain Langevin relaxes as Fokker–Planck says, within {worst:.1f} standard errors; the wait grows "
        f"{waits[-1] / waits[0]:.0f}-fold from {min(result.begun):g} to {max(result.begun):g}",
        f"deviations. Far apart it keeps the basins it fell into, {stuck.left[-1]:.4f} (by the committor {keeps:.4f} ± "
        f"{chance:.4f}),",
        f"and would need 10^{math.log10(result.needed):.1f} calls to come within {CLOSE:g} of the truth.",
        f"Within 4 standard errors of it in {way.calls[-1]:.0f} calls: {', '.join(right) or 'none'}.",
    ])  # fmt: skip


def said(run: Run) -> str:
    return f"{run.left[-1]:.4f} ± {run.errors[-1]:.4f}"


LOOKS = dict(
    zip(("plain Langevin", "annealed Langevin", "predictor–corrector"), zip((COLORS[1], *COLORS[::2]), STYLES))
)


def draw(result: Result, theme: Theme) -> Any:
    figure = canvas(9.0, 5.4, theme)
    above, below = figure.subfigures(2, 1, height_ratios=(1.25, 1))
    for part in (above, below):
        part.set_facecolor("none")
    begun, contest = above.subplots(1, 2)
    for color, style, (distance, run) in zip((*COLORS[2:5], COLORS[1]), STYLES[::-1], result.begun.items()):
        begun.plot(run.calls, run.truth, color=color, linestyle=style, linewidth=1.5, label=f"{distance:g} deviations")
        begun.errorbar(run.calls, run.left, 2 * run.errors, color=color, fmt="o", markersize=2.5, linewidth=0.8)
    begun.legend(fontsize=8, loc="center right", bbox_to_anchor=(1.0, 0.68), title="distance", title_fontsize=8)
    for name, run in result.ways.items():
        color, style = LOOKS[name]
        contest.plot(run.calls, run.left, color=color, linestyle=style, linewidth=1.8, label=name)
        contest.fill_between(
            run.calls, run.left - 2 * run.errors, run.left + 2 * run.errors, color=color, alpha=0.2, linewidth=0
        )
        if name != "plain Langevin":
            contest.plot(run.calls, run.truth, color=theme.ink, linestyle=":", linewidth=1.0)
    contest.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0.0, 0.05))
    for axis, title in (
        (begun, "plain Langevin from the lesser mode; lines: predicted"),
        (contest, "from wide noise, three ways"),
    ):
        axis.axhline(WEIGHT, color=theme.faint, linewidth=1.2)
        axis.set(ylim=(0, 1.03) if axis is begun else (0, 0.62))
        axis.set_xlabel("calls of the network", fontsize=9)
        axis.set_ylabel("weight of the lesser mode", fontsize=9)
        axis.set_title(title, fontsize=9.5)
        dress(axis, theme)
    begun.text(0, WEIGHT - 0.02, "truth", color=theme.ink, fontsize=8, va="top")
    for axis, (name, run) in zip(below.subplots(1, 3, sharey=True), result.ways.items()):
        x, y = run.points[:1500].T
        axis.scatter(x, y, s=2, color=LOOKS[name][0], alpha=0.5, linewidths=0)
        place = result.wells[FAR].place
        for side, share in ((-place, run.left[-1]), (place, 1 - run.left[-1])):
            axis.text(side, 1.25, f"{share:.3f}", color=theme.ink, fontsize=9, ha="center", va="center")
        axis.set(xlim=(-place - 1.2, place + 1.2), ylim=(-1.1, 1.5))
        axis.set_title(name, fontsize=9.5)
        axis.set_xlabel("x₁", fontsize=9)
        dress(axis, theme)
    below.axes[0].set_ylabel("x₂", fontsize=9)
    return figure


if __name__ == "__main__":
    lesson.main(Path(__file__).stem, __doc__, measure, table, draw)
