"""The exact targets of `benchmark_likelihood`, and what a likelihood may ask of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from benchmark_samplers import digits
from torch import Tensor

from scoresde import targets
from scoresde.targets.examples import random_mixture

LIMIT_S = 60.0
"""Seconds after which a peer is given up."""


def mixture() -> targets.GaussianMixture:
    """Three modes with standard deviations from 0.14 to 0.33."""
    covariances = torch.tensor(
        [[[0.04, 0.0], [0.0, 0.04]], [[0.09, 0.03], [0.03, 0.05]], [[0.06, -0.04], [-0.04, 0.06]]]
    )
    return targets.GaussianMixture([0.2, 0.3, 0.5], [[-1.5, 0.0], [1.5, 0.8], [0.3, -1.5]], covariances.double())


def thin() -> targets.Target:
    """A Gaussian in 16 dimensions, standard deviations 0.02 to 1 along random axes, off the origin."""
    generator = torch.Generator().manual_seed(16)
    axes = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64))[0]
    deviations = torch.logspace(math.log10(0.02), 0, 16, dtype=torch.float64)
    return targets.Gaussian(0.5 * torch.randn(16, generator=generator).double(), (axes * deviations**2) @ axes.mT)


def rare() -> targets.Target:
    """Three modes in space, far apart: a wide one, a narrow one, and a flat one of 2 % of the mass."""
    means = torch.tensor([[0.0, 0.0, 0.0], [3.0, 0.5, -1.0], [-2.0, 2.0, 1.0]], dtype=torch.float64)
    variances = torch.tensor([[1.0, 0.6, 0.8], [0.06, 0.05, 0.08], [0.5, 0.05, 0.4]], dtype=torch.float64) ** 2
    return targets.GaussianMixture([0.58, 0.4, 0.02], means, variances)


def shell() -> targets.Target:
    """40 round modes of width 0.15 on a sphere of radius 2 in 8 dimensions."""
    places = torch.randn(40, 8, generator=torch.Generator().manual_seed(8), dtype=torch.float64)
    places = 2 * places / places.norm(dim=1, keepdim=True)
    return targets.GaussianMixture(torch.ones(40).double(), places, 0.15**2)


@dataclass(frozen=True)
class Row:
    """A target of the benchmark: what makes it, its part, and the most points."""

    make: Callable[[], targets.Target]
    part: str
    most: int


TARGETS = {
    # name: target, tuning or held-out, most points
    "mixture": Row(mixture, "tuning", 256),
    "thin gaussian": Row(thin, "tuning", 128),
    "mixture64": Row(lambda: random_mixture(64, 10, (0.05, 0.5), 1.0, 64), "tuning", 32),
    "digits": Row(digits, "tuning", 32),
    "rare mode": Row(rare, "held-out", 256),
    "shell": Row(shell, "held-out", 128),
}


@dataclass
class Problem:
    """An exact model, points x: (B, D) and their log-densities in nats: (B,), and the calls made.

    divergences: those calls that also carried derivatives in x.
    """

    name: str
    part: str
    target: targets.Target
    x: Tensor
    truth: Tensor
    calls: int = 0
    divergences: int = 0
    until: float = math.inf

    @property
    def dim(self) -> int:
        return self.x.shape[1]

    def ask(self, x: Tensor, alpha: float, sigma: float, a: float, b: float) -> Tensor:
        if time.perf_counter() > self.until:
            raise TimeoutError(f"{self.calls} calls took more than {LIMIT_S:g} s")
        self.calls += 1
        self.divergences += differentiated(x)
        return self.target.expect(x, alpha, sigma, a, b)


def differentiated(x: Tensor) -> bool:
    """Whether derivatives in x are being taken, backwards or by torch.func."""
    return x.requires_grad or torch._C._functorch.is_functorch_wrapped_tensor(x)


def problem_of(name: str, points: int, device: str) -> Problem:
    row = TARGETS[name]
    target = row.make().to(device)
    x = target.sample(min(points, row.most), torch.Generator().manual_seed(3)).double()
    return Problem(name, row.part, target, x, target.log_prob(x))
