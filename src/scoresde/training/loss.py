"""The loss of every prediction: squared error to the prediction's own row of the table."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.model import Model
from scoresde.prediction import Prediction, limit, row
from scoresde.process import Process
from scoresde.process.base import randn
from scoresde.training.times import Times, draw, draw_times
from scoresde.training.weighting import Weighting, factor, is_integrand

__all__ = ["coefficients", "draw_times", "loss"]


def loss(
    model: Model,
    x0: Tensor,
    t: Any = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    weighting: Weighting | None = None,
    times: Times = "noise_level",
    **cond: Any,
) -> Tensor:
    """‖y − (a x₀ + b ε)‖² / (D (a² + b²)) for each sample, or u(λ) ‖v − v̂‖²/D: denoising in any prediction.

    Divided by a² + b² the target has unit scale for data of unit scale: for noise, x0 and v (on variance
    preserving processes) that is the plain mean squared error, for the score it is σ²-weighted. With a weighting
    the error is converted to that of v of unit variance, and the loss of a model is the same in every prediction.

    Args:
        model: to be trained. x0: (B, *), data. t: () or (B,), drawn by `draw_times` if None.
        noise: (B, *), drawn if None. generator: the source of both. cond: handed to the network.
        weighting: a name in WEIGHTINGS, or a function λ -> u(λ) of λ = log(α²/σ²); None: the first formula.
        times: the law of times, as `draw_times`. Where it draws with weights (`LossAware`), they are multiplied.
            Under a weighting that is an integrand ("elbo", "sigmoid") the loss at times drawn here is divided by
            their density, so that its mean is the integral over λ; at t given it is the integrand.
    Returns:
        (B,), to be averaged and minimised.
    Raises:
        ValueError, TypeError: as `Process.perturb`; a network whose output is not shaped like x0; a target that
            is zero, infinite or, times the weighting, not determined by x_t and the network at one of the times.

    Example:
        >>> import torch
        >>> from scoresde import VP, Model, loss
        >>> model, noise = Model(lambda x, t: torch.zeros_like(x), VP(), "noise"), torch.randn(16, 2)
        >>> torch.allclose(loss(model, torch.randn(16, 2), 0.5, noise), noise.square().mean(1))
        True

    Reference: Vincent (2011); Ho et al. (2020), arXiv 2006.11239, eq. 14; Kingma and Gao (2023), 2303.00848;
    docs/theory, eq. 16 and 45.
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    _shaped("x0", x0)
    process, weight = model.process, None
    if t is None:
        source = _checks.device_of(generator, "cpu")  # few numbers, for which the host is the faster
        t, weight = draw(times, process, len(x0), generator, source, integral=is_integrand(weighting))
    else:
        moved = process.times_of(t, x0)
        t = t if isinstance(t, Tensor) and t.device.type == "cpu" else moved
    if noise is None:
        noise = randn(x0.shape, generator, x0.device, x0.dtype)
    else:
        _checks.shape_like("noise", _shaped("noise", noise), x0, "x0")
    table = coefficients(model, t, weighting)
    alpha, sigma, c, a, b = spread_all(table, x0)
    estimate = model(torch.addcmul(alpha * x0, sigma, noise), t, **cond)
    error = torch.addcmul(torch.addcmul(a * x0, b, noise), c, estimate, value=-1)
    value = error.square().reshape(len(x0), math.prod(x0.shape[1:])).mean(1)
    if weight is not None:
        value = value * weight.to(value)
    # whatever is not finite ends up here, so that one look at the device is enough
    if not _checks.traced(value) and not math.isfinite(value.detach().sum()):
        _checks.state("x0", x0)
        _checks.state("noise", noise)
        check_coefficients(table, model.prediction, weighting)
        _checks.finite_result("the loss", value)
    return value


def coefficients(model: Model, t: Any, weighting: Weighting | None = None) -> Tensor:
    """α, σ, and c, c a, c b with loss = ‖c y − (c a x₀ + c b ε)‖²/D: (5,) or (5, B), float64; t checked already."""
    at = limit(t)
    process = _Once(model.process, at)
    alpha, sigma = process.alpha(at), process.sigma(at)
    a, b = row(model.prediction, process, at)  # pyright: ignore[reportArgumentType]
    a, b = (torch.as_tensor(k, dtype=at.dtype, device=at.device) for k in (a, b))
    c = torch.hypot(a, b).reciprocal() if weighting is None else factor(weighting, alpha, sigma, a, b)
    rows = (alpha, sigma, c, c * a, c * b)
    return torch.stack([k if k.shape == at.shape else k.expand(at.shape) for k in rows])


def check_coefficients(table: Tensor, prediction: Prediction, weighting: Weighting | None) -> None:
    """Refuse times where an error has no finite factor."""
    if bool(torch.isfinite(table).all()):
        return
    if weighting is None:
        raise ValueError(
            f"t: the target {prediction!r} is zero or infinite at one of the times; keep t inside the interval"
        )
    if bool(table[2].isnan().any()):
        raise ValueError(f"weighting {weighting!r} must return finite numbers of at least 0")
    raise ValueError(
        f"t: an error of the prediction {prediction!r} counts infinitely under the weighting {weighting!r} at one of "
        "the times; keep t inside the interval, or predict 'v'"
    )


def spread_all(table: Tensor, x: Tensor) -> tuple[Tensor, ...]:
    """Coefficients (k,) or (k, B), ready to multiply x: (B, *), in one move to its device and dtype."""
    return table.to(x.device, x.dtype).reshape(*table.shape, *[1] * (x.ndim - table.ndim + 1)).unbind()


def _shaped(name: str, x: Any) -> Tensor:
    """`x`, if it is a floating tensor of shape (B, *)."""
    if _checks.floating(name, x).ndim < 1:
        raise ValueError(f"{name} must have shape (B, *), got a tensor without dimensions; write {name}[None]")
    if x.is_meta:
        raise TypeError(f"{name} must have values, got a tensor on the meta device")
    return x


class _Once:
    """A process whose α and σ at one tensor of times, known to lie inside, are computed once and unchecked."""

    def __init__(self, process: Process, at: Tensor) -> None:
        self.process, self.at, self.known = process, at, {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.process, name)

    def alpha(self, t: Any) -> Tensor:
        return self._know("alpha", t)

    def sigma(self, t: Any) -> Tensor:
        return self._know("sigma", t)

    def _know(self, name: str, t: Any) -> Tensor:
        if t is not self.at:
            return getattr(self.process, name)(t)
        if name not in self.known:
            function = getattr(type(self.process), name)
            value = getattr(function, "__wrapped__", function)(self.process, t)
            self.known[name] = torch.as_tensor(value, dtype=t.dtype, device=t.device)
        return self.known[name]
