"""Integer data: bits a dimension by dequantization and `log_prob`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.likelihood.ode import log_prob
from scoresde.model import Model


def bits_per_dim(
    model: Model,
    x: Tensor,
    levels: int = 256,
    dequantize: str = "uniform",
    samples: int = 1,
    *,
    low: float = -1.0,
    high: float = 1.0,
    steps: int = 40,
    generator: torch.Generator | None = None,
    **options: Any,
) -> BitsPerDim:
    """An upper bound on −log₂ P(x)/D for integer data x, by dequantization and `log_prob`.

    Level k stands for the bin [low + k w, low + (k + 1) w], w = (high − low)/levels, of the model's data space;
    P(k) is the density's integral over the bin, at least the mean of its logarithm over uniform noise (Jensen).

    Args:
        x: (B, *), whole numbers 0..levels − 1, of an integer dtype. levels: how many there are.
        dequantize: "uniform". samples: K draws of the noise, averaged as densities; the bound tightens with K.
        low, high: the range of the model's data space that the levels fill.
        steps, options: as in `log_prob`. generator: the source of the noise and of any probes.
    Returns:
        BitsPerDim: each (B,), the mean, its standard error over the samples of x, and nfe.
    Raises:
        TypeError: x not of an integer dtype. ValueError: levels outside the range, or another argument.

    Example:
        >>> import torch
        >>> from scoresde import VP, bits_per_dim, targets
        >>> model = targets.Gaussian([0.0], 0.1).model(VP())
        >>> round(bits_per_dim(model, torch.tensor([[2], [1]]), levels=4, samples=64).value, 0)
        1.0

    Reference: Theis et al. (2016), arXiv 1511.01844, sec. 3.1; Burda et al. (2016), 1509.00519 (K samples).
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    _checks.choice("dequantize", dequantize, ("uniform",))
    levels, samples = _checks.count("levels", levels, 2), _checks.count("samples", samples)
    if not isinstance(x, Tensor) or x.is_floating_point() or x.dtype == torch.bool or x.is_complex():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(f"x must hold the levels themselves, 0..{levels - 1}, in an integer dtype, got {got}")
    if x.numel() == 0 or x.ndim < 2:
        raise ValueError(f"x must have shape (B, *) with at least one number, got {tuple(x.shape)}")
    if int(x.min()) < 0 or int(x.max()) >= levels:
        raise ValueError(f"x must lie in 0..{levels - 1} for levels={levels}, got {int(x.min())}..{int(x.max())}")
    if not _checks.number("low", low) < _checks.number("high", high):
        raise ValueError(f"low must be below high, got {low:g} and {high:g}")
    width, dim = (high - low) / levels, math.prod(x.shape[1:])
    like = model.like()
    draws, nfe = [], 0
    for _ in range(samples):
        source = _checks.device_of(generator, x.device)
        noise = torch.rand(x.shape, generator=generator, device=source, dtype=like.dtype).to(x.device)
        result = log_prob(model, low + width * (x + noise), steps, generator=generator, **options)
        draws.append(result.value.double())
        nfe += result.nfe
    log_mass = torch.stack(draws).logsumexp(0) - math.log(samples) + dim * math.log(width)
    each = -log_mass / (dim * math.log(2))
    error = float(each.std() / math.sqrt(len(each))) if len(each) > 1 else math.inf
    return BitsPerDim(each, float(each.mean()), error, nfe)


@dataclass(frozen=True)
class BitsPerDim:
    """The answer of `bits_per_dim`. each: (B,). value: their mean. standard_error: of that mean. nfe: calls."""

    each: Tensor
    value: float
    standard_error: float
    nfe: int
