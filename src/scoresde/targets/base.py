"""A target: a density whose noised versions, scores and predictions are known exactly at every time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import _checks
from scoresde.model import Model
from scoresde.prediction import Prediction, limit, row
from scoresde.process.base import Process


class Target(nn.Module):
    """A density with exact answers; its tensors are buffers, so .to(device) and .double() move it.

    Answers are computed in float64 (whatever the input's dtype) and returned in the input's.
    A subclass writes what is abstract here.

    Example:
        >>> import torch
        >>> from scoresde import RectifiedFlow, targets
        >>> target = targets.Gaussian([1.0], 0.25)
        >>> mean, covariance = target.marginal(RectifiedFlow(), 0.5).moments  # of (x₀ + ε)/2
        >>> mean.tolist(), covariance.tolist()
        ([0.5], [[0.3125]])
    """

    @property
    @abstractmethod
    def dim(self) -> int:
        """D, the dimension of one sample."""

    @property
    @abstractmethod
    def moments(self) -> tuple[Tensor, Tensor]:
        """The mean (D,) and the covariance (D, D)."""

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw n samples, (n, D)."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """The exact log-density in nats at x: (B, D); returns (B,)."""

    @abstractmethod
    def marginal(self, process: Process, t: Any) -> Target:
        """The density of x_t = α(t) x₀ + σ(t) ε, x₀ from this target; t one number in [0, t_max]."""

    @abstractmethod
    def expect(self, x: Tensor, alpha: Any, sigma: Any, a: Any, b: Any) -> Tensor:
        """E[a x₀ + b ε | α x₀ + σ ε = x], exact; x: (B, D), coefficients () or (B, 1), all float64."""

    def model(self, process: Process, prediction: Prediction = "noise") -> Model:
        """The exact model: a `Model` whose network answers with the expectation itself, and knows the moments.

        Example:
            >>> import torch
            >>> from scoresde import VP, targets
            >>> target = targets.Gaussian(torch.zeros(2), torch.eye(2))
            >>> x = torch.randn(3, 2)
            >>> torch.allclose(target.model(VP()).predict("score", x, 0.5), -x)
            True
        """
        _checks.kind("process", process, Process, "VP()")
        return Model(_Exact(self, process, prediction), process, prediction, self.moments)

    def _points(self, x: Tensor) -> Tensor:
        _checks.state("x", x)
        if x.ndim != 2 or x.shape[1] != self.dim:
            raise ValueError(f"x must have shape (B, {self.dim}), got {tuple(x.shape)}")
        return x.double()


class _Exact(nn.Module):
    def __init__(self, target: Target, process: Process, prediction: Prediction) -> None:
        super().__init__()
        self.target, self.process, self.prediction = target, process, prediction

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return exact_answer(self.target, self.process, self.prediction, x, t)


def exact_answer(target: Target, process: Process, prediction: Prediction, x: Tensor, t: Tensor) -> Tensor:
    """The target's prediction at x: (B, *) and t: (B,), in x's dtype."""
    if x[0:1].numel() != target.dim and x.shape[0]:
        raise ValueError(f"x must have {target.dim} numbers a sample, got shape {tuple(x.shape)}")
    t = limit(t)
    a, b = (c.reshape(-1, 1) if isinstance(c, Tensor) else c for c in row(prediction, process, t))
    alpha, sigma = process.alpha(t).reshape(-1, 1), process.sigma(t).reshape(-1, 1)
    wide = x.flatten(1).double()
    return target.expect(wide, alpha, sigma, a, b).to(x.dtype).reshape(x.shape)


def by_rows(function: Callable[..., Tensor], limit: int, x: Tensor, *more: Any) -> Tensor:
    """function(x, ...) in pieces of at most `limit` rows, to bound memory; arguments of (B, 1) are cut along."""
    if x.shape[0] <= limit:
        return function(x, *more)
    pieces = []
    for i in range(0, x.shape[0], limit):
        part = slice(i, i + limit)
        pieces.append(function(x[part], *(m[part] if isinstance(m, Tensor) and len(m) > 1 else m for m in more)))
    return torch.cat(pieces)
