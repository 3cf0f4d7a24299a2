"""Guidance that reshapes one model: temperature, and dynamic thresholding of its x₀."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.model import Guide, Model, is_covariance
from scoresde.prediction import UNBOUNDED, limit, row, solve_rows
from scoresde.process.base import spread


def temperature(model: Model, value: float) -> Model:
    """A model of p^(1/τ): the score times (α² s² + σ²)/(τ α² s² + σ²), along the axes of the data's covariance.

    Exact for normal data whose moments the model has (s = 1 without), and at t = 0 for any: ∇log p/τ. Between, the
    noised p^(1/τ) of other data differs (docs/theory, eq. 66): modes far apart keep their weights, for one.

    Args:
        model: its `moments` become those of the tempered normal law. value: τ > 0; below 1 for less diversity.
    Raises:
        ValueError: a temperature that is not positive.

    Example:
        >>> from scoresde import VP, guidance, sample, targets
        >>> model = targets.Gaussian([2.0], 1.0).model(VP())
        >>> x = sample(guidance.temperature(model, 0.25), (1000, 1), seeds=range(1000))
        >>> bool(abs(x.std() - 0.5) < 0.05)
        True

    Reference: Ingraham et al. (2023), Nature 623, app. B ("low-temperature sampling"), for s = 1; docs/theory, eq. 66.
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    value = _checks.positive("value", value)
    if model.moments is None:
        return _Temperature(value, torch.ones(()).double(), None).filled(model)
    mean, second = (torch.as_tensor(m).double() for m in model.moments)
    if is_covariance(mean, second):
        variance, axes = torch.linalg.eigh(second)
        tempered = value * second
    else:
        variance, axes, tempered = second.square(), None, math.sqrt(value) * second
    guide = _Temperature(value, variance.clamp_min(0.0), axes)
    return replace(guide.filled(model), moments=(mean, tempered))


def threshold(model: Model, percentile: float = 0.995, bound: float = 1.0) -> Model:
    """Dynamic thresholding: in each sample x₀ is clipped to [−s, s] and divided by s/bound, s its |x₀|'s percentile.

    s is at least `bound`, so that what lies within is left alone; so is all where the prediction says nothing of x₀.
    Clipping has kinks: `log_prob` of such a model has a large error, which it reports.

    Args:
        model: usually a guided one, whose x₀ leaves the data's range. percentile: in [0, 1]; 0 clips to the bound
            alone (static thresholding). bound: of |data|.
    Raises:
        ValueError: a percentile outside [0, 1], a bound that is not positive.

    Example:
        >>> import torch
        >>> from scoresde import VP, Model, guidance
        >>> model = Model(lambda x, t: 3 * x, VP(), "x0")
        >>> guidance.threshold(model, percentile=1.0)(torch.tensor([[0.1, -0.2, 1.0]]), 0.5)
        tensor([[ 0.1000, -0.2000,  1.0000]])

    Reference: Saharia et al. (2022), arXiv 2205.11487, sec. 2.3.
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    return _Threshold(_checks.number("percentile", percentile, 0.0, 1.0), _checks.positive("bound", bound)).filled(
        model
    )


class _Temperature(Guide):
    """y + r (y − (a/α) x), r = α² s² (1 − τ)/(τ α² s² + σ²): the noise's share of y times 1 + r."""

    variance: Tensor
    axes: Tensor | None

    def __init__(self, value: float, variance: Tensor, axes: Tensor | None) -> None:
        super().__init__()
        self.value = value
        self.register_buffer("variance", variance)
        self.register_buffer("axes", axes)

    def forward(self, model: Model, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        at = limit(t)
        alpha, sigma = model.process.alpha(at), model.process.sigma(at)
        a = torch.as_tensor(row(model.prediction, model.process, at)[0], dtype=at.dtype, device=at.device).expand_as(at)
        y, shape = model(x, t, **cond), x.shape

        def columns(c: Tensor) -> Tensor:
            return c.reshape(-1, *[1] * (x.ndim - 1 if self.axes is None else 1))

        variance = self.variance.to(at)
        rate = columns(alpha) * variance * (1 - self.value)
        rate = rate / (self.value * columns(alpha).square() * variance + columns(sigma).square())  # r/α
        excess = spread(alpha, x) * y - spread(a, x) * x
        if self.axes is None:
            return y + rate.to(x.dtype) * excess
        axes = self.axes.to(x)
        return y + (rate.to(x.dtype) * (excess.flatten(1) @ axes) @ axes.mT).reshape(shape)


def there_and_back(model: Model, prediction: str, t: Tensor) -> tuple[tuple[Tensor, Tensor, Tensor], Tensor]:
    """(u, w, back) with the prediction u x + w y, and ∂y/∂prediction, (B,) each; and 1 where all three are finite.

    Where they are not, as of x₀ and noise at both ends of time, they are 0.
    """
    at, process = limit(t), model.process
    own, goal, here = (
        row(model.prediction, process, at),
        row(prediction, process, at),
        (process.alpha(at), process.sigma(at)),
    )
    found = torch.stack([c.expand_as(at) for c in (*solve_rows(here, own, goal), solve_rows(here, goal, own)[1])])
    known = (found.abs() < UNBOUNDED).all(0)
    u, w, back = torch.where(known, found, 0.0)
    return (u, w, back), known.to(found.dtype)


class _Threshold(Guide):
    def __init__(self, percentile: float, bound: float) -> None:
        super().__init__()
        self.percentile, self.bound = percentile, bound

    def forward(self, model: Model, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        y = model(x, t, **cond)
        (u, w, back), known = there_and_back(model, "x0", t)
        x0 = spread(u, x) * x + spread(w, x) * y
        rank = math.ceil(self.percentile * x0[:1].numel() - 1e-9)  # 0.07 · 100 is a little above 7
        flat = x0.flatten(1).abs()
        size = flat.kthvalue(rank, dim=1).values.clamp_min(self.bound) if rank else flat.new_full(t.shape, self.bound)
        size = size.reshape(-1, *[1] * (x.ndim - 1))
        change = x0.clamp(-size, size) * (self.bound / size) - x0
        return torch.where(spread(known, x) * change == 0, y, y + spread(back, x) * change)
