"""The Fréchet distance: between Gaussians with the means and covariances of two sets."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde.metrics import _checks


def frechet(x: Tensor, y: Tensor, features: Callable[[Tensor], Tensor] | None = None) -> float:
    """The squared Fréchet distance between Gaussians fitted to two sets of features.

    ‖m₁ − m₂‖² + tr(C₁ + C₂ − 2 (C₁ C₂)^{1/2}), squared as FID is (the FID is this with Inception's features), with
    unbiased covariances. At finite sizes it is biased upwards, about in proportion to 1/N: compare it with its floor.

    Args:
        x: (N, *), samples. y: (M, *), real ones. features: x → (B, F), such as `fit_features(data)`; None for x itself.
    Raises:
        ValueError: sets of different shapes, fewer than 2 samples, numbers that are not finite.

    Example:
        >>> import torch
        >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        >>> round(frechet(x, x + 2), 6)
        12.0

    Reference: Heusel et al. (2017), arXiv 1706.08500; Dowson and Landau (1982), J. Multivariate Anal. 12.
    """
    if features is not None:
        _checks.function("features", features)
        with torch.no_grad():
            x, y = features(x), features(y)
    return frechet_estimate(x, y)[0]


def frechet_gaussians(m1: Tensor, C1: Tensor, m2: Tensor, C2: Tensor) -> float:
    """The squared Fréchet (2-Wasserstein) distance between N(m1, C1) and N(m2, C2).

    ‖m₁ − m₂‖² + tr C₁ + tr C₂ − 2 ‖L₁ᵀ L₂‖_*, C = L Lᵀ, ‖·‖_* the sum of singular values: no square root of a product
    that is not symmetric, and no inverse, so that singular covariances are no special case.

    Args:
        m1, m2: (D,). C1, C2: (D, D), symmetric, with eigenvalues that are not negative.
    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, a matrix that is no covariance.

    Example:
        >>> import torch
        >>> frechet_gaussians(torch.zeros(2), torch.eye(2), torch.tensor([3.0, 0.0]), torch.zeros(2, 2))
        11.0

    Reference: Dowson and Landau (1982), J. Multivariate Anal. 12.
    """
    for name, value, ndim in (("m1", m1, 1), ("C1", C1, 2), ("m2", m2, 1), ("C2", C2, 2)):
        if not isinstance(value, Tensor) or not value.is_floating_point() or value.is_meta or value.is_sparse:
            raise TypeError(f"{name} must be a tensor of floating dtype, got {type(value).__name__}")
        if tuple(value.shape) != m1.shape[:1] * ndim or not m1.ndim:
            raise ValueError(f"{name} must have shape {tuple(m1.shape[:1]) * ndim} as m1, got {tuple(value.shape)}")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name} must be finite")
    m1, C1, m2, C2 = (value.detach().double().to(m1.device) for value in (m1, C1, m2, C2))
    roots = []
    for name, C in (("C1", C1), ("C2", C2)):
        largest = float(C.abs().max())
        if float((C - C.T).abs().max()) > 1e-6 * largest:
            raise ValueError(f"{name} must be symmetric; write ({name} + {name}.T)/2")
        values, vectors = torch.linalg.eigh((C + C.T) / 2)
        if float(values[0]) < -1e-6 * largest:
            raise ValueError(f"{name} must be a covariance, but has the eigenvalue {float(values[0]):.3g}")
        roots.append(vectors * values.clamp_min(0).sqrt())
    cross = torch.linalg.svdvals(roots[0].T @ roots[1]).sum()
    return max(0.0, float((m1 - m2).square().sum() + C1.trace() + C2.trace() - 2 * cross))


def frechet_estimate(x: Tensor, y: Tensor, *_: Any) -> tuple[float, float]:
    """The distance and its standard error, s² = J + 3 B, for its mean at these sizes of the sets.

    J is the variance of the influence of each sample: with the optimal map T between the Gaussians,
    2 (m₁ − m₂)·(x − m₁) + (x − m₁)ᵀ (I − T) (x − m₁), and the same for y. B is the variance of what is left where
    both laws are equal, for normal features of eigenvalues λ: 2 (1/N + 1/M)² [Σ λ² + Σ_{i≤j} (λ_i λ_j/(λ_i + λ_j))²].
    """
    x, y = _checks.two_sets(x, y, 2)
    n, m, shift = len(x), len(y), x.mean(0) - y.mean(0)
    (one, A, p), (two, B, q) = _root(x), _root(y)
    U, S, Vh = torch.linalg.svd(A.T @ B)
    value = float(shift.square().sum() + A.square().sum() + B.square().sum() - 2 * S.sum())
    f = 2 * one @ shift + one.square().sum(1) - (p @ U).square() @ S
    g = -2 * two @ shift + two.square().sum(1) - (q @ Vh.T).square() @ S
    pooled = torch.linalg.eigvalsh((one.T @ one + two.T @ two) / (n + m - 2)).clamp_min(1e-300)
    pairs = torch.tril(pooled[:, None] * pooled / (pooled[:, None] + pooled))
    second = 2 * (1 / n + 1 / m) ** 2 * float(pooled.square().sum() + pairs.square().sum())
    return max(0.0, value), math.sqrt(float(f.var() / n + g.var() / m) + 3 * second)


def _root(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Deviations (N, D), L (D, D) with covariance L Lᵀ, and whitened deviations (N, D), 0 where L is."""
    deviation = x - x.mean(0)
    values, vectors = torch.linalg.eigh(deviation.T @ deviation / (len(x) - 1))
    scale = torch.where(values > 1e-12 * values[-1], values, 0.0).sqrt()
    inverse = torch.where(scale > 0, 1 / scale, 0.0)
    return deviation, vectors * scale, deviation @ (vectors * inverse)
