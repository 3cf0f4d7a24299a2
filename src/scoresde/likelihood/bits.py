"""Integer data: bits a dimension by dequantization and a density, `log_prob` or another."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from inspect import signature
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.likelihood.dequantization import (
    Dequantizer,
    Uniform,
    fit_dequantizer,
    matched,
    time_of,
    uniform,
)  # fmt: skip
from scoresde.likelihood.lattice import Bins
from scoresde.likelihood.ode import log_prob
from scoresde.model import Model, is_conditioned

NUMBERS = 2**20
"""How many numbers a density is asked for at once."""

INFLATION = 1e-3
"""Bits a dimension by which a noisy density may bend the average over draws without a warning."""


def bits_per_dim(
    model: Model,
    x: Tensor,
    levels: int = 256,
    dequantize: str | Dequantizer = "uniform",
    samples: int = 1,
    *,
    low: Any = -1.0,
    high: Any = 1.0,
    density: Callable[..., Any] = log_prob,
    generator: torch.Generator | None = None,
    **options: Any,
) -> BitsPerDim:
    """An upper bound on −log₂ P(x)/D for integer data x, by dequantization and a log-density.

    Level k stands for the bin [low + k w, low + (k + 1) w], w = (high − low)/levels, of the model's data space:

        −log P(x) ≤ −E log (1/K) Σ_k p(v_k)/q(v_k | x),   v_k ~ q(· | x) inside the bins of x

    Args:
        model: of the levels, scaled. x: (B, *), whole numbers 0..levels − 1, of an integer dtype.
        levels: how many there are.
        dequantize: the law q.
            "uniform": for models trained on uniformly dequantized data.
            "truncated_normal": for models trained on bare levels at the bins' centres; a truncated normal, and the
                density at a small time. A model that was not (by its score, one call) gets the uniform law.
            "variational": one of `fit_dequantizer`, 500 steps on x itself. That is fair, since any q gives a
                bound, but for one law for many batches call it on the training data and hand over its answer.
            Or an object: Uniform(), TruncatedNormal(scale), Variational.
        samples: K draws, averaged as densities; the bound tightens with K, and is exact as K → ∞.
        low, high: the outer edges of the first and last bin, numbers or tensors that broadcast to one sample.
            Levels scaled as x/127.5 − 1 stand at centres: low = −1 − 1/255, high = 1 + 1/255.
        density: `log_prob`, `elbo`, or any function (model, x, generator=…, **options) -> (B,), or an object with
            such a `value`; with t=… where it is asked at a later time than 0.
        options: to `density`. (Its own `samples`: density=functools.partial(elbo, samples=…).)
        generator: the source of all random numbers.
    Returns:
        BitsPerDim: each (B,), the mean, its standard error over the samples of x, and nfe.
    Raises:
        TypeError: x not of an integer dtype. ValueError: levels outside the range, or another argument.
    Warns:
        UserWarning: K > 1 and a density so noisy (probes, an ELBO of few times) that exp bends the average: the
            answer may be too low. More probes, divergence="exact", or K = 1.

    Example:
        >>> import torch
        >>> from scoresde import VP, bits_per_dim, targets
        >>> model = targets.Gaussian([0.0], 0.1).model(VP())
        >>> round(bits_per_dim(model, torch.tensor([[2], [1]]), levels=4, samples=64).value, 0)
        1.0

    Reference: Theis et al. (2016), arXiv 1511.01844, sec. 3.1; Burda et al. (2016), 1509.00519, eq. 8; Ho et al.
    (2019), 1902.00275, eq. 12; Zheng et al. (2023), 2305.03935, sec. 3.2; docs/theory, B1 to B5.
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    bins, samples = Bins.of(x, levels, low, high), _checks.count("samples", samples)
    _checks.device_of(generator)
    if not callable(density):
        raise TypeError(f"density must be a function such as log_prob, got {density!r}")
    law = _law(dequantize, model, x, bins, generator)
    t = time_of(model.process, law.ratio(bins))
    alpha, dtype = float(model.process.alpha(t)), model.like().dtype
    if t:
        _takes_t(density)
        options["t"] = t
    dim = math.prod(x.shape[1:])
    volume = float(bins.width.log().sum()) + dim * math.log(alpha)
    rows = len(x) if is_conditioned(model) else max(1, NUMBERS // dim)
    together = 1 if is_conditioned(model) else max(1, rows // len(x))
    draws, calls, noise = [], 0, 0.0
    for start in range(0, samples, together):
        n = min(together, samples - start)
        u = torch.cat([uniform(x.shape, generator, x.device) for _ in range(n)])
        repeated = x.repeat(n, *[1] * (x.ndim - 1))
        y, log_q = law.draw(repeated, u, bins)
        for points, part in zip((alpha * bins.place(repeated, y)).to(dtype).split(rows), log_q.split(rows)):
            result = density(model, points, generator=generator, **options)
            draws.append(_value(result, len(points)).double() - part)
            calls += len(points) * getattr(result, "nfe", 0)
            noise += float((getattr(result, "standard_error", torch.zeros(1)).double() ** 2).sum())
    log_weights = torch.cat(draws).reshape(samples, len(x)) + volume
    unit = dim * math.log(2)
    each = (math.log(samples) - log_weights.logsumexp(0)) / unit
    shares = log_weights.softmax(0)  # those of the mean density: relative variance Σ(K w − 1)²/(K(K − 1))
    spread = (shares - 1 / samples).square().sum(0) * samples / (samples - 1) if samples > 1 else each + math.inf
    error = float(each.std() / math.sqrt(len(each))) if len(each) > 1 else math.inf
    inflation = 0.5 * noise / log_weights.numel() / unit
    if samples > 1 and not inflation <= INFLATION:
        warnings.warn(
            f"bits_per_dim averages {samples} densities whose own noise may make the answer too low, by up to "
            f"{inflation:.2g} bits/dim; give more probes, divergence='exact', or samples=1",
            stacklevel=2,
        )
    return BitsPerDim(each, float(each.mean()), error, round(calls / len(x)), spread.sqrt() / unit, law)


@dataclass(frozen=True)
class BitsPerDim:
    """The answer of `bits_per_dim`.

    Args:
        each: (B,), bits a dimension. value: their mean. standard_error: of that mean, over x as a sample of the data
            (the draws' chance is part of it).
        nfe: calls of the network for one sample, all draws. each_error: (B,), the standard error of `each` by its K
            draws alone, infinite for K = 1. dequantizer: the law that was used.
    """

    each: Tensor
    value: float
    standard_error: float
    nfe: int
    each_error: Tensor
    dequantizer: Dequantizer


def _law(dequantize: Any, model: Model, x: Tensor, bins: Bins, generator: torch.Generator | None) -> Dequantizer:
    if isinstance(dequantize, Dequantizer):
        return dequantize
    if not isinstance(dequantize, str):
        raise TypeError(f"dequantize must be a name or what fit_dequantizer returns, got {dequantize!r}")
    name = _checks.choice("dequantize", dequantize, ("uniform", "truncated_normal", "variational"))
    if name == "uniform":
        return Uniform()
    if name == "truncated_normal":
        return matched(model, x, bins, generator)
    high = bins.low + bins.levels * bins.width
    return fit_dequantizer(model, x, bins.levels, low=bins.low, high=high, generator=generator)


def _takes_t(density: Callable[..., Any]) -> None:
    names = signature(density).parameters.values()
    if not any(p.name == "t" or p.kind is p.VAR_KEYWORD for p in names):
        raise ValueError(
            f"density must take t=…, the later time at which this dequantization asks for it, but {density!r} does "
            "not; use log_prob, or dequantize='uniform'"
        )


def _value(result: Any, rows: int) -> Tensor:
    value = result if isinstance(result, Tensor) else getattr(result, "value", None)
    if not isinstance(value, Tensor) or value.shape != (rows,):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(result).__name__
        raise TypeError(f"density must return ({rows},) numbers, or an object with such a value, got {got}")
    return _checks.finite_result("density", value)
