"""Mixtures to try samplers on, by name: `EXAMPLES`."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from scoresde.targets.base import Target
from scoresde.targets.mixture import GaussianMixture


def gmm() -> GaussianMixture:
    """Three modes in the plane, standard deviations 0.15 to 0.4."""
    turn = torch.tensor([[math.cos(0.6), -math.sin(0.6)], [math.sin(0.6), math.cos(0.6)]], dtype=torch.float64)
    variances = torch.tensor([[0.15, 0.15], [0.4, 0.2], [0.3, 0.15]], dtype=torch.float64) ** 2
    axes = torch.stack([torch.eye(2, dtype=torch.float64), turn, turn.mT])
    means = torch.tensor([[-1.1, 0.0], [1.1, 0.6], [0.2, -1.1]], dtype=torch.float64)
    return GaussianMixture([0.2, 0.3, 0.5], means, (axes * variances[:, None]) @ axes.mT)


def lattice() -> GaussianMixture:
    """25 modes on a square grid, standard deviation 0.1."""
    places = torch.arange(-2, 3, dtype=torch.float64)
    return GaussianMixture(torch.ones(25).double(), torch.cartesian_prod(places, places), 0.01)


def random_mixture(dim: int, modes: int, widths: tuple[float, float], apart: float, seed: int) -> GaussianMixture:
    """Modes at normal places, with standard deviations log-uniform in `widths` along random axes."""
    generator = torch.Generator().manual_seed(seed)
    means = apart * torch.randn(modes, dim, generator=generator, dtype=torch.float64)
    axes = torch.linalg.qr(torch.randn(modes, dim, dim, generator=generator, dtype=torch.float64))[0]
    low, high = (math.log(w) for w in widths)
    spread = torch.exp(low + (high - low) * torch.rand(modes, dim, generator=generator, dtype=torch.float64))
    weights = 0.5 + torch.rand(modes, generator=generator, dtype=torch.float64)
    return GaussianMixture(weights, means, (axes * spread[:, None].square()) @ axes.mT)


def gmm16() -> GaussianMixture:
    """Eight modes in 16 dimensions, standard deviations 0.1 to 0.5 along random axes."""
    return random_mixture(16, 8, (0.1, 0.5), 1.0, 16)


def anisotropic32() -> GaussianMixture:
    """Five modes in 32 dimensions, standard deviations 0.03 to 1 along random axes."""
    return random_mixture(32, 5, (0.03, 1.0), 0.7, 32)


EXAMPLES: dict[str, Callable[[], Target]] = {
    "gmm": gmm, "lattice": lattice, "gmm16": gmm16, "anisotropic32": anisotropic32,
}  # fmt: skip
