"""The probability flow in coordinates where its Gaussian part is solved and time is graded.

With ρ = σ/α, y = x/α and the data's mean m and standard deviation s (along the axes of the covariance, if that
is known), z = (y − m)/h, h² = s² + ρ², moves by

    dz/dw = ρ'(w) (s² ε − ρ (x₀ − m)) / h³,         d log p(z)/dw = −div_z dz/dw,          (docs/theory, eq. 10-12)

a row of the prediction table plus a constant. It is zero for Gaussian data, and at both ends of time. Time is
graded by ρ(w) = A sinh(kw) / (sinh(k) (1 − w²)), w in [0, 1], which reaches ρ = ∞ at w = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde.model import Model, is_covariance
from scoresde.prediction import row_at
from scoresde.process.base import TINY, Process

GRADING = 2.0
"""k, how strongly times crowd towards the data."""

REACH = 2.0
"""A/s, where the grading bends, in standard deviations of the data."""

LEAST_SPREAD = 1e-3
"""The least standard deviation used for coordinates, as a share of the largest: constant pixels need some scale."""


def graded(w: float, scale: float) -> tuple[float, float]:
    """ρ and dρ/dw at the place w in [0, 1), for data of standard deviation `scale`."""
    rest, front = 1 - w * w, REACH * scale / math.sinh(GRADING)
    sinh, cosh = math.sinh(GRADING * w), math.cosh(GRADING * w)
    return front * sinh / rest, front * (GRADING * cosh * rest + 2 * w * sinh) / rest**2


def place(rho: float, scale: float) -> float:
    """The w at which ρ(w) = rho: 0 at 0 and 1 at ∞, by bisection to rounding."""
    if rho <= 0 or math.isinf(rho):
        return 0.0 if rho <= 0 else 1.0
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if graded(middle, scale)[0] > rho else (middle, high)
    return low


def ratio(process: Process, t: float) -> float:
    """ρ = σ/α at t, ∞ where α = 0."""
    alpha = process.at("alpha", t)
    return process.at("sigma", t) / alpha if alpha else math.inf


def places(process: Process, steps: int, scale: float, start: float | None = None) -> list[float]:
    """steps + 1 places from the noise end (or the time `start`) to w = 0, or to where the process ends at σ(0) > 0.

    Equal steps; but where they would pass below t_min on the way to zero, equal steps to t_min and a last one to 0.
    """
    first = place(ratio(process, process.t_max if start is None else start), scale)
    least, end = place(ratio(process, process.t_min), scale), place(ratio(process, 0.0), scale)
    if steps > 1 and end == 0.0 and first / steps < least < first:
        return [*np.linspace(first, least, steps).tolist(), 0.0]
    return np.linspace(first, end, steps + 1).tolist()


def times(process: Process, where: Sequence[float], scale: float) -> list[float]:
    """The times of places: t_max for 1 and beyond what the process reaches, 0 for 0."""
    rho = torch.tensor([math.inf if w >= 1.0 else graded(w, scale)[0] for w in where], dtype=torch.float64)
    return process.time(-2 * rho.log()).tolist()


@dataclass(frozen=True)
class Frame:
    """The data's mean and standard deviations along `axes`: tensors (D,), or numbers where one serves all."""

    mean: Any
    spread: Any
    axes: Tensor | None
    scale: float

    @staticmethod
    def of(model: Model, x: Tensor) -> Frame:
        """The model's moments, for samples shaped like those of x: (B, *); mean 0 and deviation 1 if it has none."""
        if model.moments is None:
            return Frame(0.0, 1.0, None, 1.0)
        shape, dim = x.shape[1:], math.prod(x.shape[1:])
        mean, second = (torch.as_tensor(m, device=x.device).double() for m in model.moments)
        full = is_covariance(mean, second)
        if not _broadcasts(mean, shape) and mean.numel() != dim:
            raise ValueError(
                f"moments: the mean must broadcast to a sample of shape {tuple(shape)}, got {tuple(mean.shape)}"
            )
        mean = mean.reshape(-1) if mean.numel() == dim else mean.expand(shape).reshape(-1)
        axes = None
        if full and len(second) == dim:
            variances, axes = torch.linalg.eigh(second)
            spread, mean = variances.clamp_min(0).sqrt(), mean @ axes
        elif not full and _broadcasts(second, shape):
            spread = second.expand(shape).reshape(-1)
        else:
            raise ValueError(
                f"moments: the second must be a standard deviation that broadcasts to a sample of shape {tuple(shape)} "
                f"or a covariance of shape ({dim}, {dim}), got {tuple(second.shape)}"
            )
        spread = spread.clamp_min(LEAST_SPREAD * float(spread.max()))
        return Frame(mean, spread, axes, float(spread.square().mean().sqrt()))

    def turn(self, x: Tensor) -> Tensor:
        """x: (B, *) as vectors along the axes, (B, D)."""
        flat = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        return flat if self.axes is None else flat @ self.axes.to(x.dtype)

    def unturn(self, vectors: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of `turn`, with samples of `shape`."""
        flat = vectors if self.axes is None else vectors @ self.axes.to(vectors.dtype).mT
        return flat.reshape(flat.shape[0], *shape)

    def log_volume(self, dim: int) -> float:
        """log Π s: the log-determinant of z ↦ x at ρ = 0."""
        spread = torch.as_tensor(self.spread, dtype=torch.float64)
        return float(spread.log().expand(dim).sum())


def _broadcasts(value: Tensor, shape: torch.Size) -> bool:
    try:
        return torch.broadcast_shapes(value.shape, shape) == shape
    except RuntimeError:
        return False


@dataclass(frozen=True)
class Flow:
    """The probability flow of one model, for samples of one shape, in the coordinates z: (B, D)."""

    model: Model
    frame: Frame
    shape: torch.Size

    @staticmethod
    def of(model: Model, x: Tensor) -> Flow:
        return Flow(model, Frame.of(model, x), x.shape[1:])

    def _levels(self, t: float, like: Tensor) -> tuple[Any, Any]:
        """αm and √(α²s² + σ²), the mean and deviation that Gaussian data would have at t."""
        alpha, sigma = self.model.process.at("alpha", t), self.model.process.at("sigma", t)
        if isinstance(self.frame.spread, float):
            return alpha * self.frame.mean, math.hypot(alpha * self.frame.spread, sigma)
        deviation = (alpha**2 * self.frame.spread.square() + sigma**2).sqrt()
        return (alpha * self.frame.mean).to(like.dtype), deviation.to(like.dtype)

    def standard(self, x: Tensor) -> Tensor:
        """z of data x: (B, *), at ρ = 0: (x − m)/s."""
        mean, spread = (v.to(x.dtype) if isinstance(v, Tensor) else v for v in (self.frame.mean, self.frame.spread))
        return (self.frame.turn(x) - mean) / spread

    def into(self, x: Tensor, t: float) -> Tensor:
        """z of x: (B, *) at time t."""
        mean, deviation = self._levels(t, x)
        return (self.frame.turn(x) - mean) / deviation

    def back(self, z: Tensor, t: float) -> Tensor:
        """x of z: (B, D) at time t."""
        mean, deviation = self._levels(t, z)
        return self.frame.unturn(mean + deviation * z, self.shape)

    def field(self, z: Tensor, w: float, t: float) -> Tensor:
        """dz/dw at the place w, 0 < w < 1, whose time is t: one call of the network."""
        at, process, (_, slope) = max(t, TINY), self.model.process, graded(w, self.frame.scale)
        alpha, sigma = process.at("alpha", at), process.at("sigma", at)
        if alpha == 0.0:
            return torch.zeros_like(z)
        mean, deviation = self._levels(t, z)
        x = mean + deviation * z
        y = self.frame.turn(self.model(self.frame.unturn(x, self.shape), t))
        a, b = row_at(self.model.prediction, process, at)
        spread2, rho = self.frame.spread**2, sigma / alpha
        front = slope / (spread2 + rho**2) ** 1.5
        inner = front / (alpha * b - sigma * a)  # Cramer's rule for the row (−ρ, s²) of the table
        by_x, by_y = -inner * (rho * b + spread2 * a), inner * (alpha * spread2 + sigma * rho)
        if isinstance(front, Tensor):
            by_x, by_y = by_x.to(z.dtype), by_y.to(z.dtype)
        rest = front * rho * self.frame.mean
        return by_x * x + by_y * y + (rest.to(z.dtype) if isinstance(rest, Tensor) else rest)


def adams_weights(nodes: Sequence[float], a: float, b: float) -> list[float]:
    """The weights that integrate over [a, b] the polynomial through values at `nodes`."""
    relative = (np.asarray(nodes) - a) / (b - a)
    powers = np.vander(relative, increasing=True).T
    return ((b - a) * np.linalg.solve(powers, 1 / np.arange(1, len(nodes) + 1))).tolist()


def extrapolate(z: Tensor, history: Sequence[tuple[float, Tensor]], a: float, b: float) -> Tensor:
    """z at b from z at a and the slopes in `history`, integrated as a polynomial."""
    for weight, (_, slope) in zip(adams_weights([w for w, _ in history], a, b), history):
        z = z + weight * slope
    return z


def advance(
    field: Callable[[Tensor, float], Tensor | None],
    z: Tensor,
    a: float,
    b: float,
    history: tuple[tuple[float, Tensor], ...],
    order: int,
) -> tuple[Tensor, tuple[tuple[float, Tensor], ...]]:
    """One Adams–Bashforth–Moulton step from a to b: predict, evaluate once, correct.

    The corrector goes through `order` slopes, the new one among them; where `field` gives None, no new slope
    is to be had and the prediction stands. `history` ends with the slope at a.
    """
    guess = extrapolate(z, history[-order:], a, b)
    slope = field(guess, b)
    if slope is None:
        return guess, history
    grown = (*history[-order:], (b, slope))
    return extrapolate(z, grown[-max(order, 2) :], a, b), grown
