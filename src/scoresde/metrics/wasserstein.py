"""Distances between sets of samples by optimal transport along lines."""

from __future__ import annotations

import torch
from torch import Tensor


def sliced_wasserstein(x: Tensor, y: Tensor, projections: int = 512, generator: torch.Generator | None = None) -> float:
    """The sliced 2-Wasserstein distance between two sets of samples, scaled by √D.

    √(D · mean over random directions of W₂² between the projections): for two sets that differ by a shift it is
    the length of the shift, in expectation over the directions.

    Args:
        x: (N, *). y: (M, *), the same shape of a sample. projections: how many directions.
        generator: the source of directions (a fixed one if None, so that values compare).
    Raises:
        ValueError: samples of different shapes, empty or not finite sets.

    Example:
        >>> import torch
        >>> x = torch.randn(500, 3)
        >>> sliced_wasserstein(x, x)
        0.0

    Reference: Bonneel et al. (2015), Sliced and Radon Wasserstein barycenters; Rabin et al. (2012).
    """
    for name, value in (("x", x), ("y", y)):
        if not isinstance(value, Tensor) or not value.is_floating_point():
            raise TypeError(
                f"{name} must be a tensor of floating dtype, got {getattr(value, 'dtype', type(value).__name__)}"
            )
    if x.shape[1:] != y.shape[1:] or x.ndim < 2:
        raise ValueError(
            f"x and y must be sets of equal samples, (N, *) and (M, *), got {tuple(x.shape)}, {tuple(y.shape)}"
        )
    if not x.numel() or not y.numel():
        raise ValueError("x and y must hold at least one sample each")
    if not bool(torch.isfinite(x).all()) or not bool(torch.isfinite(y).all()):
        raise ValueError("x and y must be finite")
    if isinstance(projections, bool) or not isinstance(projections, int) or projections < 1:
        raise ValueError(f"projections must be a whole number of at least 1, got {projections!r}")
    x, y = x.flatten(1).double(), y.flatten(1).double().to(x.device)
    dim = x.shape[1]
    generator = generator or torch.Generator().manual_seed(0)
    directions = torch.randn(dim, projections, generator=generator, device=generator.device, dtype=torch.float64)
    directions = (directions / directions.norm(dim=0)).to(x.device)
    gaps = _quantiles(x @ directions, len(y)) - _quantiles(y @ directions, len(x))
    weights = _weights(len(x), len(y), x.device)
    return float((dim * (weights @ gaps.square()).mean()).sqrt())


def _quantiles(values: Tensor, other: int) -> Tensor:
    """Sorted values (N, P), one for each piece between the jumps of two empirical quantile functions."""
    edges = _edges(len(values), other, values.device)
    middle = (edges[1:] + edges[:-1]) / 2
    return values.sort(0).values[(middle * len(values)).long().clamp_max(len(values) - 1)]


def _edges(n: int, m: int, device: torch.device) -> Tensor:
    one = torch.arange(n + 1, dtype=torch.float64, device=device) / n
    two = torch.arange(m + 1, dtype=torch.float64, device=device) / m
    return torch.cat([one, two]).unique() if n != m else one


def _weights(n: int, m: int, device: torch.device) -> Tensor:
    return _edges(n, m, device).diff()
