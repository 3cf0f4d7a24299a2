"""Gaussian mixtures with full covariances."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.process.base import Process, randn
from scoresde.targets.base import Target


class GaussianMixture(Target):
    """Σ_k w_k N(m_k, C_k).

    Args:
        weights: (K,), positive; normalised to sum one. means: (K, D).
        covariances: (K, D, D), symmetric positive semi-definite; or (K, D), (K,) or a number: variances.
    Raises:
        ValueError: shapes that do not fit, weights not positive, a covariance that is not one, or a D that asks for
            more than 16 GiB.

    Example:
        >>> from scoresde import targets
        >>> target = targets.GaussianMixture([0.3, 0.7], [[-1.0, 0.0], [1.0, 0.5]], 0.04)
        >>> target.moments[0]
        tensor([0.4000, 0.3500], dtype=torch.float64)

    Reference: docs/theory, eq. 6 (the posterior of x₀ and ε given x_t).
    """

    weights: Tensor
    means: Tensor
    variances: Tensor  # (K, D), eigenvalues of the covariances
    axes: Tensor  # (K, D, D), eigenvectors in columns

    def __init__(self, weights: Any, means: Any, covariances: Any) -> None:
        super().__init__()
        like = next((v for v in (means, covariances, weights) if isinstance(v, Tensor)), torch.empty(0))
        dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
        named = {"weights": weights, "means": means, "covariances": covariances}
        weights, means, covariances = (_checks.table(k, v).to(like.device).double() for k, v in named.items())
        if means.ndim != 2 or weights.shape != means.shape[:1] or not means.numel():
            raise ValueError(
                f"weights must have shape (K,) and means (K, D), got {tuple(weights.shape)} and {tuple(means.shape)}"
            )
        if not bool((weights > 0).all()) or not bool(torch.isfinite(weights).all()):
            raise ValueError(f"weights must be positive and finite, got {weights.tolist()}")
        if not bool(torch.isfinite(means).all()) or not bool(torch.isfinite(covariances).all()):
            raise ValueError("means and covariances must be finite")
        variances, axes = _eigen(covariances, *means.shape)
        for name, value in (
            ("weights", weights / weights.sum()), ("means", means), ("variances", variances), ("axes", axes),
        ):  # fmt: skip
            self.register_buffer(name, value)
        self.dtype = dtype

    @property
    def dim(self) -> int:
        return self.means.shape[1]

    @property
    def covariances(self) -> Tensor:
        """(K, D, D)."""
        return (self.axes * self.variances[:, None, :]) @ self.axes.mT

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        mean = self.weights @ self.means
        apart = self.means - mean
        within = torch.einsum("k,kij->ij", self.weights, self.covariances)
        return mean, within + torch.einsum("k,ki,kj->ij", self.weights, apart, apart)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        n, device = _checks.count("n", n, 0), self.means.device
        source = _checks.device_of(generator, device)
        uniform = torch.rand(n, generator=generator, device=source, dtype=torch.float64).to(device)
        k = torch.searchsorted(self.weights.cumsum(0), uniform).clamp_max(len(self.weights) - 1)
        noise = randn((n, self.dim), generator, device, torch.float64) * self.variances[k].sqrt()
        return (self.means[k] + torch.einsum("bij,bj->bi", self.axes[k], noise)).to(self.dtype)

    def _posterior(self, x: Tensor, alpha: Any, sigma: Any) -> tuple[Tensor, Tensor, Tensor]:
        """Log joint densities (B, K), offsets in the components' axes (B, K, D), and variances there."""
        alpha, sigma = (torch.as_tensor(c, dtype=x.dtype)[..., None] for c in (alpha, sigma))
        variance = alpha**2 * self.variances + sigma**2
        offset = torch.einsum("bki,kij->bkj", x[:, None] - alpha * self.means, self.axes)
        exponent = (offset**2 / variance + variance.log()).sum(-1) + self.dim * math.log(2 * math.pi)
        return self.weights.log() - 0.5 * exponent, offset, variance

    def log_prob(self, x: Tensor) -> Tensor:
        return self._joint(x).logsumexp(1).to(x.dtype)

    def responsibilities(self, x: Tensor) -> Tensor:
        """p(component | x): (B, K)."""
        return self._joint(x).softmax(1).to(x.dtype)

    def _joint(self, x: Tensor) -> Tensor:
        wide = self._points(x)
        if bool((self.variances == 0).any()):
            raise ValueError("the density is infinite: a covariance is singular; ask marginal(process, t) with t > 0")
        return self.log_joint(wide, 1.0, 0.0)

    def marginal(self, process: Process, t: Any) -> GaussianMixture:
        t = _checks.number("t", t)
        _checks.kind("process", process, Process, "VP()")
        alpha, sigma = process.alpha(t), process.sigma(t)
        covariances = (self.axes * (alpha**2 * self.variances + sigma**2)[:, None, :]) @ self.axes.mT
        result = GaussianMixture(self.weights, alpha * self.means, covariances)
        result.dtype = self.dtype
        return result

    def log_joint(self, x: Tensor, alpha: Any, sigma: Any) -> Tensor:
        """log of w_k times the density of α x₀ + σ ε for x₀ from component k, at x: (B, D) float64; (B, K)."""
        return self._posterior(x, alpha, sigma)[0]

    def expect(self, x: Tensor, alpha: Any, sigma: Any, a: Any, b: Any) -> Tensor:
        log_joint, offset, variance = self._posterior(x, alpha, sigma)
        alpha3, sigma3, a3, b3 = (torch.as_tensor(c, dtype=x.dtype)[..., None] for c in (alpha, sigma, a, b))
        gain = (a3 * alpha3 * self.variances + b3 * sigma3) / variance
        share = log_joint.softmax(1)
        moved = torch.einsum("bk,bkj,kij->bi", share, gain * offset, self.axes)
        return a * (share @ self.means) + moved


class Gaussian(GaussianMixture):
    """N(mean, covariance): a mixture of one.

    Args:
        mean: (D,). covariance: (D, D), or (D,) or a number: variances.
    Raises:
        ValueError: shapes that do not fit, numbers that are not finite, a covariance that is not one.

    Example:
        >>> import torch
        >>> from scoresde.targets import Gaussian
        >>> round(float(Gaussian([0.0], 4.0).log_prob(torch.zeros(1, 1))), 4)
        -1.6121
    """

    def __init__(self, mean: Any, covariance: Any) -> None:
        given = mean.dtype if isinstance(mean, Tensor) and mean.is_floating_point() else torch.get_default_dtype()
        mean, covariance = _checks.table("mean", mean), _checks.table("covariance", covariance)
        if mean.ndim != 1 or not mean.numel() or not bool(torch.isfinite(mean).all()):
            raise ValueError(f"mean must be finite, of shape (D,), got {str(mean.tolist())[:80]}")
        try:
            super().__init__(mean.new_ones(1), mean[None], covariance.to(mean.device)[None])
        except ValueError as error:
            raise ValueError(f"covariance: {error}") from error
        self.dtype = given


def _eigen(covariances: Tensor, k: int, d: int) -> tuple[Tensor, Tensor]:
    """Eigenvalues (K, D) and eigenvectors (K, D, D) of covariances in any accepted shape."""
    _checks.room("means", k, d, "write targets.Empirical(data, bandwidth), which keeps no covariances")
    shared = covariances.shape == (k, d) and k == d > 1 and torch.allclose(covariances, covariances.mT)
    if shared and not torch.equal(covariances, covariances[:1].expand(k, d)):
        raise ValueError(
            f"covariances of shape ({k}, {d}) are variances, but these are symmetric like a covariance; "
            f"write covariances.expand({k}, {d}, {d}) for one that all share, or torch.diag_embed(covariances)"
        )
    eye = torch.eye(d, dtype=covariances.dtype, device=covariances.device).expand(k, d, d)
    if covariances.shape in ((), (1,), (k,), (k, d), (k, 1)):
        spread = covariances.reshape(covariances.shape + (1,) * (2 - covariances.ndim)).expand(k, d)
        variances, axes = spread.clone(), eye.clone()
    elif covariances.shape == (k, d, d):
        if not torch.allclose(covariances, covariances.mT, rtol=1e-6, atol=1e-12):
            raise ValueError("covariances must be symmetric")
        variances, axes = torch.linalg.eigh((covariances + covariances.mT) / 2)
    else:
        raise ValueError(
            f"covariances must have shape ({k}, {d}, {d}), ({k}, {d}), ({k},) or (), got {tuple(covariances.shape)}"
        )
    if bool((variances < -1e-9 * variances.abs().amax().clamp_min(1e-300)).any()):
        raise ValueError(f"covariances must be positive semi-definite, got an eigenvalue of {variances.min():g}")
    return variances.clamp_min(0.0), axes
