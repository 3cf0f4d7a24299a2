"""Problems whose flow and whose laws are known exactly, to measure samplers on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from scoresde.model import Model
from scoresde.process import Process
from scoresde.targets import GaussianMixture

AXES = torch.tensor([[0.6, -0.8], [0.8, 0.6]], dtype=torch.float64)
"""The two directions, in columns, along which a problem's coordinates are independent."""

WIDE, NARROW = 10.0, 0.1
"""σ/α at the ends of the interior interval."""


@dataclass(frozen=True)
class Problem:
    """Data in the plane whose coordinates along `AXES` are independent: a mixture along the first, a normal second.

    The flow of each coordinate keeps its quantile, F_s(x_s) = F_t(x_t), so its end points are known exactly.
    """

    name: str
    weights: tuple[float, ...]
    means: tuple[float, ...]
    variances: tuple[float, ...]
    knows_moments: bool = True
    across: tuple[float, float] = (-0.4, 0.6)

    def target(self, dim: int) -> GaussianMixture:
        """In the plane, or its first coordinate alone."""
        weights, means, variances = (
            torch.tensor(v, dtype=torch.float64) for v in (self.weights, self.means, self.variances)
        )
        if dim == 1:
            return GaussianMixture(weights, means[:, None], variances)
        mean, variance = self.across
        along = torch.stack([means, torch.full_like(means, mean)], 1) @ AXES.mT
        spreads = torch.stack([variances, torch.full_like(variances, variance)], 1)
        return GaussianMixture(weights, along, (AXES * spreads[:, None, :]) @ AXES.mT)

    def model(self, process: Process, dim: int) -> Model:
        """The exact model; without moments where a sampler that knows them would make no error at all."""
        moments = self.target(dim).moments if self.knows_moments else None
        return Model(partial(self._velocity, process), process, "v", moments)

    def _velocity(self, process: Process, x: Tensor, t: Tensor) -> Tensor:
        """E[αε − σx₀ | x_t = x]: what `target(dim).model(process, "v")` answers, for few points ten times as fast."""
        points, first = x.numpy(), float(t[0])
        if bool((t == first).all()):
            alpha, sigma = process.at("alpha", first), process.at("sigma", first)
        else:
            alpha, sigma = (c.double().numpy()[:, None] for c in (process.alpha(t), process.sigma(t)))
        columns = (points @ AXES.numpy() if x.shape[1] > 1 else points).T[:, :, None]
        found = [_expected(c, part, alpha, sigma) for c, part in zip(columns, self.coordinates)]
        answer = np.stack(found, 1)
        return torch.as_tensor(answer @ AXES.numpy().T if x.shape[1] > 1 else answer)

    @cached_property
    def coordinates(self) -> list[tuple[np.ndarray, ...]]:
        """Weights, means and variances of the data's two coordinates."""
        mean, variance = self.across
        first = tuple(np.array(v) for v in (self.weights, self.means, self.variances))
        return [first, (np.ones(1), np.array([mean]), np.array([variance]))]

    def starts(self, process: Process, t: float) -> Tensor:
        """Sixteen points spread as x_t is, (16, 2)."""
        alpha, sigma = process.at("alpha", t), process.at("sigma", t)
        share = (torch.arange(16, dtype=torch.float64) + 0.5) / 16
        order = torch.arange(16) * 5 % 16  # every level of one coordinate with another of the other
        spread = torch.special.ndtri(torch.stack([share, share[order]], 1))
        moments = [((w * m).sum(), (w * (v + m**2)).sum() - (w * m).sum() ** 2) for w, m, v in self.coordinates]
        mean, variance = torch.tensor(moments, dtype=torch.float64).unbind(1)
        return (alpha * mean + (alpha**2 * variance + sigma**2).sqrt() * spread) @ AXES.mT

    def carried(self, process: Process, x: Tensor, t: float, s: float) -> Tensor:
        """x: (B, 2) at time t carried along the exact flow to time s; to the data where s is 0."""
        here = (process.at("alpha", t), process.at("sigma", t) if t else 0.0)
        there = (process.at("alpha", s), process.at("sigma", s) if s else 0.0)
        columns = (x @ AXES).numpy().T
        moved = [_same_quantile(c, part, here, there, part) for c, part in zip(columns, self.coordinates)]
        return torch.as_tensor(np.stack(moved, 1)) @ AXES.mT

    def lattice(self, level: tuple[float, float], points: int) -> np.ndarray:
        """Equally spaced points over ±9 standard deviations of αX₀ + σε, of the first coordinate: (points,)."""
        weights, means, variances = self.coordinates[0]
        mean = weights @ means
        deviation = math.sqrt(level[0] ** 2 * (weights @ (variances + means**2) - mean**2) + level[1] ** 2)
        return level[0] * mean + deviation * np.linspace(-9, 9, points)

    def quantiles(self, normal: np.ndarray, level: tuple[float, float]) -> np.ndarray:
        """Standard normal numbers as points of αX₀ + σε, of the first coordinate, with the same quantiles."""
        return _same_quantile(normal, (np.ones(1), np.zeros(1), np.ones(1)), (1.0, 0.0), level, self.coordinates[0])

    def expectation(self, function: Callable[[np.ndarray], np.ndarray], level: tuple[float, float]) -> np.ndarray:
        """E[function(αX₀ + σε)] of the first coordinate, by the trapezoidal rule: (F,)."""
        x = self.lattice(level, 4000)
        shares = _tail(x, self.coordinates[0], level, np.ones_like(x))[1]
        return shares @ function(x) / shares.sum()


GAUSSIAN = Problem("Gaussian", (1.0,), (0.7,), (0.3,), knows_moments=False)
MIXTURE = Problem("mixture", (0.3, 0.4, 0.3), (-1.0, 0.2, 1.2), (0.04, 0.09, 0.03))


@np.errstate(over="ignore", invalid="ignore")  # a run that leaves the finite numbers is refused as such
def _expected(x: np.ndarray, part: tuple[np.ndarray, ...], alpha: Any, sigma: Any) -> np.ndarray:
    """E[αε − σX₀ | αX₀ + σε = x], X₀ mixed normal, for x: (B, 1); (B,)."""
    weights, means, variances = part
    variance = alpha**2 * variances + sigma**2
    offset = x - alpha * means
    slope = offset / variance
    guess = alpha * sigma * (1 - variances) * slope - sigma * means
    if len(means) == 1:
        return guess[:, 0]
    exponent = np.log(weights) - 0.5 * (offset * slope + np.log(variance))
    share = np.exp(exponent - exponent.max(1, keepdims=True))
    return (share * guess).sum(1) / share.sum(1)


def _tail(x: np.ndarray, part: tuple[np.ndarray, ...], level: tuple[float, float], side: np.ndarray):
    """P(X ≤ x) where side is 1, P(X ≥ x) where it is −1, and the density, of αX₀ + σε with mixed normal X₀."""
    weights, means, variances = part
    deviation = np.sqrt(level[0] ** 2 * variances + level[1] ** 2)
    z = (x[:, None] - level[0] * means) / deviation
    density = np.exp(-z * z / 2) / (deviation * math.sqrt(2 * math.pi))
    return ndtr(side[:, None] * z) @ weights, density @ weights


def _same_quantile(
    x: np.ndarray,
    part: tuple[np.ndarray, ...],
    here: tuple[float, float],
    there: tuple[float, float],
    goal: tuple[np.ndarray, ...],
) -> np.ndarray:
    """The points of αX₀ + σε, X₀ from `goal`, with the quantiles of x among those of `part`.

    By Newton's method, kept inside a bracket, on the lesser tail.
    """
    side = np.where(_tail(x, part, here, np.ones_like(x))[0] < 0.5, 1.0, -1.0)
    share, reach = _tail(x, part, here, side)[0], 12 * math.hypot(*there) + 12
    low, high = np.full_like(x, -reach), np.full_like(x, reach)
    y = np.clip(x * (math.hypot(*there) / math.hypot(*here)), low, high)
    for _ in range(200):
        found, density = _tail(y, goal, there, side)
        below = (found - share) * side < 0
        low, high = np.where(below, y, low), np.where(below, high, y)
        better = y - side * (found - share) / np.maximum(density, 1e-300)
        better = np.where((better > low) & (better < high), better, (low + high) / 2)
        done, y = np.abs(better - y).max() <= 1e-15 * reach, better
        if done:
            break
    return y


def interior(process: Process, steps: int) -> list[float]:
    """Times from σ/α = 10 to 0.1 at equal steps of arctan σ/α: smooth in every usual variable, and equal in few."""
    angle = torch.linspace(math.atan(WIDE), math.atan(NARROW), steps + 1, dtype=torch.float64)
    return process.time(-2 * angle.tan().log()).tolist()
