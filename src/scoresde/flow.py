"""The probability flow in coordinates where its Gaussian part is solved and time is graded.

With ρ = σ/α, y = x/α and the data's mean m and standard deviation s (along the axes of the covariance, if that
is known), z = (y − m)/h, h² = s² + ρ², moves by

    dz/dw = ρ'(w) (s² ε − ρ (x₀ − m)) / h³,         d log p(z)/dw = −div_z dz/dw,          (docs/theory, eq. 10-12)

a row of the prediction table plus a constant. It is zero for Gaussian data, and at both ends of time. Time is
graded by ρ(w) = s w^q/(1 − w²), q = 3/2, w in [0, 1], which reaches ρ = ∞ at w = 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scoresde import _checks
from scoresde.model import Model, determines, is_changed, is_covariance
from scoresde.prediction import limit, row, row_at
from scoresde.process.base import TINY, Process

CROWDING = 1.5
"""The power q of w by which times crowd towards the data."""

FAR = 25.0
"""ρ/s from which the data's mean and covariance say all there is to say: the slope there is O(1/ρ³)."""

HIGHEST = 5
"""The highest order of the Adams method: to predict through more slopes costs more than it gives."""

LEAST_SPREAD = 0.1
"""The least standard deviation used for coordinates, as a share of the largest: below it, what a network adds of its
own is more than the data's."""


def graded(w: Any, scale: float) -> tuple[Any, Any]:
    """ρ and dρ/dw at the place w in [0, 1), a number or a tensor, for data of standard deviation `scale`."""
    low, rest = scale * w ** (CROWDING - 1), 1 - w * w
    return low * w / rest, low * (CROWDING + (2 - CROWDING) * w * w) / rest**2


@_checks.on_host
@lru_cache(maxsize=4096)
def place(rho: float, scale: float) -> float:
    """The w at which ρ(w) = rho: 0 at 0 and 1 at ∞, by bisection to rounding."""
    if rho <= 0 or math.isinf(rho):
        return 0.0 if rho <= 0 else 1.0
    low, high = 0.0, 1.0
    while low < (middle := (low + high) / 2) < high:
        low, high = (low, middle) if graded(middle, scale)[0] > rho else (middle, high)
    return low


def data_scale(model: Model) -> float:
    """√(tr C²/tr C), the standard deviation of the directions that hold most of the variance; 1 without moments."""
    return 1.0 if model.moments is None else _scale(*model.moments)


@_checks.on_host
def _scale(*moments: Any) -> float:
    mean, second = (torch.as_tensor(m, dtype=torch.float64, device="cpu") for m in moments)
    if is_covariance(mean, second):
        return float((second.square().sum() / second.trace()).sqrt())
    variance = second.square()
    return float((variance.square().sum() / variance.sum()).sqrt())


def ratio(process: Process, t: float) -> float:
    """ρ = σ/α at t, ∞ where α = 0."""
    alpha = process.at("alpha", t)
    return process.at("sigma", t) / alpha if alpha else math.inf


def places(process: Process, steps: int, scale: float, start: float | None = None) -> list[float]:
    """steps + 1 places from the noise end (or the time `start`) to w = 0, or to where the process ends at σ(0) > 0.

    Equal steps; but where they would pass below t_min on the way to zero, equal steps to t_min and a last one to 0.
    """
    first = place(ratio(process, process.t_max if start is None else start), scale)
    least, end = (place(ratio(process, t), scale) for t in (process.t_min, 0.0))
    if end == 0.0 and first / steps < least < first:
        return [*np.linspace(first, least, steps).tolist(), 0.0]
    return np.linspace(first, end, steps + 1).tolist()


def times(process: Process, where: Sequence[float], scale: float) -> list[float]:
    """The times of places: t_max for 1 and beyond what the process reaches, 0 for 0."""
    rho = torch.tensor([math.inf if w >= 1.0 else graded(w, scale)[0] for w in where], dtype=torch.float64)
    return process.time(-2 * rho.log()).tolist()


class _Same:
    """A matrix that equals another only if it is that very one, unchanged."""

    def __init__(self, matrix: Any) -> None:
        self.matrix, self.key = matrix, (id(matrix), getattr(matrix, "_version", None))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)


@_checks.on_host
def _axes(matrix: Any) -> tuple[Tensor, Tensor]:
    return _eigen(_Same(matrix))


@lru_cache(maxsize=4)
def _eigen(same: _Same) -> tuple[Tensor, Tensor]:
    return torch.linalg.eigh(torch.as_tensor(same.matrix, device="cpu").double())


@dataclass(frozen=True)
class Frame:
    """The data's mean and standard deviations along `axes`: tensors (D,) in x's dtype, or numbers for all."""

    mean: Any
    spread: Any
    axes: Tensor | None
    scale: float

    @staticmethod
    def of(model: Model, x: Tensor) -> Frame:
        """The model's moments, for samples shaped like those of x: (B, *); mean 0 and deviation 1 if it has none."""
        if model.moments is None:
            return Frame(0.0, 1.0, None, 1.0)
        shape, dim, scale = x.shape[1:], math.prod(x.shape[1:]), data_scale(model)
        mean, second = (torch.as_tensor(m, dtype=torch.float64, device="cpu") for m in model.moments)
        full = is_covariance(mean, second)
        if not _broadcasts(mean, shape) and mean.numel() != dim:
            raise ValueError(
                f"moments: the mean must broadcast to a sample of shape {tuple(shape)}, got {tuple(mean.shape)}"
            )
        if mean.numel() == second.numel() == 1:
            return Frame(float(mean), float(second.sqrt() if full else second), None, scale)
        mean = mean.reshape(-1) if mean.numel() == dim else mean.expand(shape).reshape(-1)
        axes = None
        if full and len(second) == dim:
            variances, axes = _axes(model.moments[1])
            spread, mean = variances.clamp_min(0).sqrt(), mean @ axes
        elif not full and _broadcasts(second, shape):
            spread = second.expand(shape).reshape(-1)
        else:
            raise ValueError(
                f"moments: the second must be a standard deviation that broadcasts to a sample of shape {tuple(shape)} "
                f"or a covariance of shape ({dim}, {dim}), got {tuple(second.shape)}"
            )
        spread = spread.clamp_min(LEAST_SPREAD * float(spread.max()))
        return Frame(mean.to(x), spread.to(x), None if axes is None else axes.to(x), scale)

    def turn(self, x: Tensor) -> Tensor:
        """x: (B, *) as vectors along the axes, (B, D)."""
        flat = x if x.ndim == 2 else x.reshape(x.shape[0], math.prod(x.shape[1:]))
        return flat if self.axes is None else flat @ self.axes

    def unturn(self, vectors: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of `turn`, with samples of `shape`."""
        flat = vectors if self.axes is None else vectors @ self.axes.mT
        return flat if len(shape) == 1 else flat.reshape(flat.shape[0], *shape)


def _broadcasts(value: Tensor, shape: torch.Size) -> bool:
    try:
        return torch.broadcast_shapes(value.shape, shape) == shape
    except RuntimeError:
        return False


@dataclass(frozen=True)
class Flow:
    """The probability flow of one model, for samples of one shape, in the coordinates z: (B, D).

    `known` says that the data's mean and covariance are known, so that there is no flow left at ρ = ∞, `determined`
    that the model's prediction says where it goes there.
    """

    model: Model
    frame: Frame
    shape: torch.Size
    known: bool
    determined: bool
    _last: dict[float, tuple[Any, Any]] = field(default_factory=dict, repr=False, compare=False)

    @staticmethod
    def of(model: Model, x: Tensor) -> Flow:
        known = model.moments is not None and not is_changed(model)
        return Flow(model, Frame.of(model, x), x.shape[1:], known, determines(model, "x0"))

    def is_far(self, w: float) -> bool:
        """Whether the data's mean and covariance, being known, leave no slope worth a call at the place w."""
        return self.known and w >= place(FAR, 1.0)

    def _levels(self, t: float) -> tuple[Any, Any]:
        """αm and √(α²s² + σ²), the mean and deviation that Gaussian data would have at t."""
        if t not in self._last:
            alpha, sigma = self.model.process.at("alpha", t), self.model.process.at("sigma", t)
            mean, spread = self.frame.mean, self.frame.spread
            if isinstance(spread, float):
                deviation = math.hypot(alpha * spread, sigma)
            else:
                deviation = (spread.square() * alpha**2).add_(sigma**2).sqrt_()
            self._last.clear()
            self._last[t] = (alpha * mean, deviation)
        return self._last[t]

    def log_volume(self, t: float, dim: int) -> float:
        """The log-determinant of z ↦ x at time t, for ρ = 0 at t = 0."""
        deviation = self.frame.spread if t == 0.0 else self._levels(t)[1]
        return float(torch.as_tensor(deviation, dtype=torch.float64).log().expand(dim).sum())

    def standard(self, x: Tensor) -> Tensor:
        """z of data x: (B, *), at ρ = 0: (x − m)/s."""
        return (self.frame.turn(x) - self.frame.mean) / self.frame.spread

    def into(self, x: Tensor, t: float) -> Tensor:
        """z of x: (B, *) at time t."""
        mean, deviation = self._levels(t)
        return (self.frame.turn(x) - mean) / deviation

    def back(self, z: Tensor, t: float) -> Tensor:
        """x of z: (B, D) at time t."""
        return self.frame.unturn(self._scaled(z, t), self.shape)

    def _scaled(self, z: Tensor, t: float) -> Tensor:
        """αm + √(α²s² + σ²) z."""
        mean, deviation = self._levels(t)
        if isinstance(mean, Tensor):
            return torch.addcmul(mean, z, deviation)
        return z * deviation + mean if mean else z * deviation

    def field(self, z: Tensor, w: float, t: float) -> Tensor:
        """dz/dw at the place w, 0 < w <= 1, whose time is t: one call of the network."""
        at, process, frame = max(t, TINY), self.model.process, self.frame
        alpha, sigma = process.at("alpha", at), process.at("sigma", at)
        if alpha == 0.0:  # ρ = ∞, where z is noise, and only the mean can be off: ρ'/ρ² = 2/s
            if not self.determined:
                return torch.zeros_like(z)
            x0 = self.model.estimate(1.0, 0.0, frame.unturn(sigma * z, self.shape), t)
            return (frame.mean - frame.turn(x0)) * (2 / frame.scale)
        x = self._scaled(z, t)
        y = frame.turn(self.model(frame.unturn(x, self.shape), t))
        (a, b), (_, deviation) = row_at(self.model.prediction, process, at), self._levels(t)
        # Cramer's rule for the row (−ρ, s²)/h³ of the table, with h = deviation/α
        determinant = alpha * b - sigma * a
        by_y = graded(w, frame.scale)[1] * alpha**2 / determinant / deviation
        front = by_y / deviation**2
        by_x = front * (frame.spread**2 * (-alpha * a) - sigma * b)
        rest = front * frame.mean * (sigma * determinant)
        if isinstance(by_y, Tensor):
            return torch.addcmul(torch.addcmul(rest, x, by_x), y, by_y)
        slope = torch.add(x * by_x, y, alpha=by_y)
        return slope + rest if rest else slope

    def fields(self, w: Tensor, dtype: torch.dtype) -> Callable[[Tensor], Tensor]:
        """`field` as a function of z: (B, D), for samples at places of their own, w: (B,); 1 stands for a large ρ."""
        process, frame = self.model.process, self.frame
        w = w.clamp_max(
            place(torch.finfo(dtype).eps ** (-1 / 3), 1.0)
        )  # there what cancels costs what the limit is off
        rho, change = graded(w, frame.scale)
        t = limit(process.time(-2 * rho.log()).clamp(process.t_min, process.t_max))
        alpha, sigma, change = (c[:, None] for c in (process.alpha(t), process.sigma(t), change))
        a, b = (torch.as_tensor(c, dtype=t.dtype).expand_as(t)[:, None] for c in row(self.model.prediction, process, t))
        mean, spread = (torch.as_tensor(c, dtype=t.dtype, device=w.device) for c in (frame.mean, frame.spread))
        deviation, determinant = torch.hypot(alpha * spread, sigma), alpha * b - sigma * a
        by_y = change * alpha**2 / determinant / deviation
        front = by_y / deviation**2
        by_x = -front * (spread**2 * alpha * a + sigma * b)
        rest = front * mean * (sigma * determinant)
        centre = alpha * mean

        def field(z: Tensor) -> Tensor:
            x = centre.to(z) + z * deviation.to(z)
            y = frame.turn(self.model(frame.unturn(x, self.shape), t))
            return rest.to(z) + x * by_x.to(z) + y * by_y.to(z)

        return field

    def score(self, z: Tensor, w: Tensor, slope: Tensor) -> Tensor:
        """∇ log p with respect to z, from dz/dw at places w: (B,) in (0, 1]: −z − (s² + ρ²)/(ρ ρ') dz/dw."""
        rho, change = (c[:, None] for c in graded(w, self.frame.scale))
        spread = torch.as_tensor(self.frame.spread, dtype=w.dtype, device=w.device)
        factor = torch.where(rho.isinf(), 0.0, (spread**2 + rho**2) / (rho * change))
        return -z - factor.to(z) * slope


@_checks.on_host
@lru_cache(maxsize=4096)
def adams_weights(nodes: tuple[float, ...], a: float, b: float) -> list[float]:
    """The weights that integrate over [a, b] the polynomial through values at `nodes`."""
    relative = (np.asarray(nodes) - a) / (b - a)
    powers = np.vander(relative, increasing=True).T
    return ((b - a) * np.linalg.solve(powers, 1 / np.arange(1, len(nodes) + 1))).tolist()


History = tuple[tuple[float, Tensor | None], ...]
"""Places and the slopes there, the latest last; None stands for zero."""


def extrapolate(z: Tensor, history: History, a: float, b: float) -> Tensor:
    """z at b from z at a and the slopes in `history`, integrated as a polynomial."""
    for weight, (_, slope) in zip(adams_weights(tuple(w for w, _ in history), a, b), history):
        if slope is not None:
            z = torch.add(z, slope, alpha=weight)
    return z


def advance(
    field: Callable[[Tensor, float], Tensor | None],
    z: Tensor,
    a: float,
    b: float,
    history: History,
    order: int,
    origin: tuple[float, Tensor],
    guess: Tensor | None = None,
) -> tuple[Tensor, History]:
    """One Adams–Bashforth–Moulton step from a to b: predict through order − 1 slopes, evaluate once, correct.

    The corrector goes through `order` slopes, the new one among them. As long as there are no more than that, it
    integrates anew from the `origin` (place, z) of the history, so that the start has the order of the rest. A
    `guess` stands in for the prediction.
    """
    slope = field(extrapolate(z, history[1 - order :], a, b) if guess is None else guess, b)
    history = (*history, (b, slope))[-HIGHEST:]
    if len(history) <= order and history[0][0] == origin[0]:
        return extrapolate(origin[1], history, origin[0], b), history
    return extrapolate(z, history[-order:], a, b), history
