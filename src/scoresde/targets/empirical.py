"""Data as a density: one Gaussian of a common width at every point."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.process.base import Process, randn
from scoresde.targets.base import Target, by_rows

ENTRIES = 2**24
"""How many numbers a table of points × data may hold at once; more points go in pieces."""


class Empirical(Target):
    """(1/N) Σ_n N(data_n, bandwidth² I): the kernel density of the data, exact at every time.

    Args:
        data: (N, *), floating; samples are flattened to D numbers. bandwidth: positive.
    Raises:
        TypeError, ValueError: data of integers, empty or not finite, bandwidth not positive.

    Example:
        >>> import torch
        >>> from scoresde import targets
        >>> target = targets.Empirical(torch.tensor([[1.0], [3.0]]), 0.5)
        >>> mean, covariance = target.moments
        >>> mean.tolist(), covariance.tolist()  # 1 of the data, and 1/4
        ([2.0], [[1.25]])

    Reference: Karras et al. (2022), arXiv 2206.00364, app. B.3 (the ideal denoiser).
    """

    data: Tensor
    center: Tensor

    def __init__(self, data: Tensor, bandwidth: float) -> None:
        super().__init__()
        _checks.state("data", data)
        if not data.numel():
            raise ValueError(f"data must hold at least one point, got shape {tuple(data.shape)}")
        self.dtype = data.dtype
        self.bandwidth = _checks.positive("bandwidth", bandwidth)
        points = data.flatten(1).double() if data.ndim > 1 else data[:, None].double()
        self.register_buffer("center", points.mean(0))
        self.register_buffer("data", points - self.center)  # centred: distances by products lose fewer digits

    @property
    def dim(self) -> int:
        return self.data.shape[1]

    @property
    def moments(self) -> tuple[Tensor, Tensor]:
        _checks.room("data", 1, self.dim, "a model wants the covariance, log_prob and sample do not")
        eye = torch.eye(self.dim, dtype=torch.float64, device=self.data.device)
        return self.center, self.data.mT @ self.data / len(self.data) + self.bandwidth**2 * eye

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        n, device = _checks.count("n", n, 0), self.data.device
        source = _checks.device_of(generator, device)
        k = torch.randint(len(self.data), (n,), generator=generator, device=source).to(device)
        noise = randn((n, self.dim), generator, device, torch.float64)
        return (self.center + self.data[k] + self.bandwidth * noise).to(self.dtype)

    def _log_kernels(self, x: Tensor, alpha: Any, variance: Any) -> Tensor:
        """−|x − α data_n|²/(2 variance), (B, N), for x relative to α·center."""
        squares = (x**2).sum(1, keepdim=True) - 2 * alpha * (x @ self.data.mT) + alpha**2 * (self.data**2).sum(1)
        return -squares / (2 * variance)

    def log_prob(self, x: Tensor) -> Tensor:
        variance = self.bandwidth**2
        constant = math.log(len(self.data)) + 0.5 * self.dim * math.log(2 * math.pi * variance)

        def piece(points: Tensor) -> Tensor:
            return self._log_kernels(points - self.center, 1.0, variance).logsumexp(1) - constant

        return by_rows(piece, max(1, ENTRIES // len(self.data)), self._points(x)).to(x.dtype)

    def marginal(self, process: Process, t: Any) -> Empirical:
        t = _checks.number("t", t)
        _checks.kind("process", process, Process, "VP()")
        alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
        result = Empirical(alpha * (self.center + self.data), math.hypot(alpha * self.bandwidth, sigma))
        result.dtype = self.dtype
        return result

    def expect(self, x: Tensor, alpha: Any, sigma: Any, a: Any, b: Any) -> Tensor:
        def piece(x: Tensor, alpha: Any, sigma: Any, a: Any, b: Any) -> Tensor:
            variance = alpha**2 * self.bandwidth**2 + sigma**2
            offset = x - alpha * self.center
            nearest = self._log_kernels(offset, alpha, variance).softmax(1) @ self.data  # E[data_n | x] − center
            gain = (a * alpha * self.bandwidth**2 + b * sigma) / variance
            return a * (self.center + nearest) + gain * (offset - alpha * nearest)

        return by_rows(piece, max(1, ENTRIES // len(self.data)), x, alpha, sigma, a, b)
