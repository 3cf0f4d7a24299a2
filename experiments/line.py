"""A mixture on a line, of which two lessons know everything: quantiles, and how far samples are from it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor

from scoresde import Process, targets


@dataclass(frozen=True)
class Line:
    """A mixture on a line: its distribution function, quantiles, and exact distances to samples."""

    weights: tuple[float, ...]
    means: tuple[float, ...]
    deviations: tuple[float, ...]

    @cached_property
    def target(self) -> targets.GaussianMixture:
        w, m, s = torch.tensor([self.weights, self.means, self.deviations], dtype=torch.float64)
        return targets.GaussianMixture(w, m[:, None], s.square())

    def at(self, process: Process, t: float) -> Line:
        """The line at time t."""
        alpha, sigma = process.at("alpha", t), process.at("sigma", t)
        spread = tuple(math.hypot(alpha * s, sigma) for s in self.deviations)
        return Line(self.weights, tuple(alpha * m for m in self.means), spread)

    def standard(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Weights, means, deviations, and x in units of each mode."""
        w, m, s = torch.tensor([self.weights, self.means, self.deviations], dtype=torch.float64)
        return w, m, s, (x[..., None] - m) / s

    def cdf(self, x: Tensor) -> Tensor:
        """F(x)."""
        w, _, _, z = self.standard(x)
        return torch.special.ndtr(z) @ w

    def below(self, x: Tensor) -> Tensor:
        """E[X; X ≤ x] = Σ w (m Φ(z) − s φ(z)), z = (x − m)/s."""
        w, m, s, z = self.standard(x)
        return (m * torch.special.ndtr(z) - s * torch.exp(-z.square() / 2) / math.sqrt(2 * math.pi)) @ w

    def quantile(self, u: Tensor) -> Tensor:
        """F⁻¹(u), by bisection to rounding; ∓∞ at 0 and 1."""
        reach = max(abs(m) + 40 * s for m, s in zip(self.means, self.deviations))
        low, high = torch.full_like(u, -reach), torch.full_like(u, reach)
        for _ in range(64):
            middle = (low + high) / 2
            under = self.cdf(middle) < u
            low, high = torch.where(under, middle, low), torch.where(under, high, middle)
        return torch.where(u <= 0, -math.inf, torch.where(u >= 1, math.inf, high))

    def quantiles(self, n: int) -> Tensor:
        """Those at (i + ½)/n: the line itself, as n points."""
        return self.quantile((torch.arange(n, dtype=torch.float64) + 0.5) / n)

    def wasserstein(self, x: Tensor) -> tuple[float, float]:
        """W1 between samples x: (n,) and the line, ∫₀¹ |F_n⁻¹ − F⁻¹| du, exact, and its standard error.

        Between the levels i/n the samples' quantile function is one number x, so that the integral is a difference of
        `below` on both sides of u = F(x). The error is that of W1's mean over samples, by the influence of one of
        them, whose slope in x is ± sign(F_n − F).
        """
        x, n = x.double().sort().values, len(x)
        u, q = levels(self, n)
        split = torch.clamp(self.cdf(x), u[:-1], u[1:])
        under = self.below(q)
        pieces = x * (2 * split - u[:-1] - u[1:]) - 2 * self.below(torch.clamp(x, q[:-1], q[1:]))
        crossing = torch.clamp(q[1:-1], x[:-1], x[1:])
        influence = torch.cat([x.new_zeros(1), (2 * crossing - x[:-1] - x[1:]).cumsum(0)])
        return float((pieces + under[:-1] + under[1:]).sum()), float(influence.std()) / math.sqrt(n)

    def floor(self, n: int) -> float:
        """W1 of n exact samples, in expectation, for large n: √(2/πn) ∫ √(F(1 − F)) dx."""
        x = torch.linspace(-20, 20, 200_001, dtype=torch.float64)
        f = self.cdf(x)
        return math.sqrt(2 / (math.pi * n)) * float(torch.trapezoid((f * (1 - f)).clamp_min(0).sqrt(), x))


@cache
def levels(line: Line, n: int) -> tuple[Tensor, Tensor]:
    """i/n, i = 0..n, and the quantiles there."""
    u = torch.arange(n + 1, dtype=torch.float64) / n
    return u, line.quantile(u)
