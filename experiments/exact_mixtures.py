"""Exact mixtures in the plane, as fast models and as judges of samples, for `benchmark_stochastic`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from scoresde import Model, ddpm, targets

PROCESS = ddpm()
ERRORS = ("weights", "mean", "covariance", "sliced W")
DIRECTIONS = 32


@dataclass
class Exact:
    """E[a x₀ + b ε | α x₀ + σ ε = x] of a mixture in the plane, in the dtype of x, and the calls of it.

    The exponents are quadratic in x and the means of the components linear, so it takes two matrix products.
    """

    target: targets.GaussianMixture
    calls: int = 0
    top: float = field(init=False)
    noise: Tensor | None = None

    def __post_init__(self) -> None:
        self.top = PROCESS.at("sigma", 1.0) / PROCESS.at("alpha", 1.0)

    @lru_cache(4096)  # noqa: B019
    def _tables(self, alpha: float, sigma: float) -> tuple[Tensor, Tensor]:
        """(6, K) weights of 1, x, y, x², xy, y² in the exponents; (K, 6) of x̂₀ = c + Gx by components."""
        target = self.target
        variance = alpha**2 * target.variances + sigma**2
        precision = (target.axes / variance[:, None]) @ target.axes.mT
        gain = (target.axes * (alpha * target.variances / variance)[:, None]) @ target.axes.mT
        center = alpha * target.means
        pulled = torch.einsum("kij,kj->ki", precision, center)
        constant = target.weights.log() - 0.5 * (variance.log().sum(1) + (pulled * center).sum(1))
        exponents = torch.stack(
            [constant, pulled[:, 0], pulled[:, 1], -0.5 * precision[:, 0, 0], -precision[:, 0, 1],
             -0.5 * precision[:, 1, 1]]
        )  # fmt: skip
        offset = target.means - torch.einsum("kij,kj->ki", gain, center)
        return exponents, torch.cat([offset, gain.flatten(1)], 1)

    def ask(self, x: Tensor, alpha: float, sigma: float, a: float, b: float) -> Tensor:
        self.calls += 1
        exponents, means = (table.to(x.dtype) for table in self._tables(alpha, sigma))
        one, two = x.unbind(1)
        features = torch.stack([torch.ones_like(one), one, two, one * one, one * two, two * two], 1)
        c0, c1, g00, g01, g10, g11 = ((features @ exponents).softmax(1) @ means).unbind(1)
        clean = torch.stack([c0 + g00 * one + g01 * two, c1 + g10 * one + g11 * two], 1)
        return clean * (a - b * alpha / sigma) + (b / sigma) * x if b else a * clean

    def start(self, alpha: float, sigma: float) -> Tensor:
        """x_T as a state α x₀ + σ ε."""
        assert self.noise is not None
        return self.noise * math.hypot(alpha, sigma)

    def model(self) -> Model:
        def net(x: Tensor, t: Tensor) -> Tensor:
            at = float(t[0])
            return self.ask(x, PROCESS.at("alpha", at), PROCESS.at("sigma", at), 0.0, 1.0)

        return Model(net, PROCESS, moments=self.target.moments)

    __hash__ = object.__hash__


@dataclass(frozen=True)
class Judge:
    """The four errors of a set of samples."""

    target: targets.GaussianMixture
    reference: np.ndarray

    @staticmethod
    def of(target: targets.GaussianMixture, n: int, seed: int) -> Judge:
        exact = target.sample(n, torch.Generator().manual_seed(seed))
        return Judge(target, Judge.projected(exact))

    @staticmethod
    def projected(x: Tensor) -> np.ndarray:
        """The sorted projections on directions spread over the half circle, (DIRECTIONS, n)."""
        angles = np.pi * (np.arange(DIRECTIONS) + 0.5) / DIRECTIONS
        return np.sort(np.stack([np.cos(angles), np.sin(angles)], 1) @ x.numpy().T.astype(np.float64), axis=1)

    def errors(self, x: Tensor) -> list[np.ndarray]:
        """The four error vectors."""
        mean, covariance = self.target.moments
        share, wide = self.target.responsibilities(x).double().mean(0), x.double()
        gaps = self.projected(x) - self.reference
        return [
            (share - self.target.weights).numpy(),
            (wide.mean(0) - mean).numpy(),
            (wide.mT.cov() - covariance).flatten().numpy(),
            gaps.ravel() * math.sqrt(x.shape[1] / gaps.size),
        ]


def products(errors: list[list[np.ndarray]]) -> np.ndarray:
    """The products of the error vectors of n seeds with each other, (4, n, n)."""
    return np.stack([(stacked := np.stack(vectors)) @ stacked.T for vectors in zip(*errors)])


def score2(gram: np.ndarray, floor: np.ndarray) -> float:
    """The squared score of n seeds, from the products of their errors."""
    n = gram.shape[1]
    own = np.trace(gram, axis1=1, axis2=2)
    if n == 1:
        return float((own / floor**2).mean())
    return 1 + float(((gram.sum((1, 2)) - own) / (n * (n - 1)) / floor**2).mean())


def floors(target: targets.GaussianMixture, n: int, sets: int = 32) -> tuple[np.ndarray, float]:
    """The root mean squares of the errors of exact sets, and the deviation of the product of two in their units."""
    errors = [
        Judge.of(target, n, 2 * i + 10_000).errors(target.sample(n, torch.Generator().manual_seed(2 * i + 10_001)))
        for i in range(sets)
    ]
    gram = products(errors)
    floor = np.sqrt(np.trace(gram, axis1=1, axis2=2) / sets)
    mixed = (gram / floor[:, None, None] ** 2).mean(0)[np.triu_indices(sets, 1)]
    return floor, float(np.sqrt(np.square(mixed).mean()))
