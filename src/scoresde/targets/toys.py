"""Two-dimensional toys as plain data, (n, 2), each centred and of about unit spread."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scoresde import _checks


def _draws(n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor, Tensor]:
    """Two uniform numbers and a normal pair for each of n points."""
    n = _checks.count("n", n)
    device = _checks.device_of(generator)
    uniform = torch.rand(2, n, generator=generator, device=device)
    return uniform[0], uniform[1], torch.randn(n, 2, generator=generator, device=device)


def _around(points: Tensor, noise: float, z: Tensor) -> Tensor:
    return points + _checks.number("noise", noise, 0.0) * z


def _plane(radius: Tensor, angle: Tensor) -> Tensor:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


def moons(n: int, generator: torch.Generator | None = None, noise: float = 0.05) -> Tensor:
    """Two interleaved half circles, with normal noise around them.

    Args:
        n: how many points. generator: the source of randomness, the global one if None.
            noise: its standard deviation.
    Raises:
        ValueError: n below 1, noise below 0. TypeError: a generator that is no torch.Generator.

    Example:
        >>> import torch
        >>> x, center = moons(1000, torch.Generator().manual_seed(0), noise=0.0), torch.tensor([0.5, 0.25])
        >>> radii = torch.stack([(x - center).norm(dim=1), (x + center).norm(dim=1)])  # of unit circles around ±center
        >>> bool(((radii - 1).abs().amin(0) < 1e-6).all())
        True
    """
    u, side, z = _draws(n, generator)
    arc, center = _plane(torch.ones_like(u), math.pi * u), torch.tensor([0.5, 0.25], device=u.device)
    return _around(torch.where(side[:, None] < 0.5, arc - center, center - arc), noise, z)


def rings(n: int, generator: torch.Generator | None = None, noise: float = 0.05) -> Tensor:
    """Three concentric circles with equal density along each, radii 0.5, 1 and 1.5.

    Args:
        n: how many points. generator: the source of randomness, the global one if None.
            noise: around them, its standard deviation.
    Raises:
        ValueError: n below 1, noise below 0. TypeError: a generator that is no torch.Generator.

    Example:
        >>> import torch
        >>> rings(1000, torch.Generator().manual_seed(0), noise=0.0).norm(dim=1).round(decimals=4).unique()
        tensor([0.5000, 1.0000, 1.5000])
    """
    u, side, z = _draws(n, generator)
    radius = 0.5 * (1 + (side > 1 / 6).float() + (side > 1 / 2).float())
    return _around(_plane(radius, 2 * math.pi * u), noise, z)


def checkerboard(n: int, generator: torch.Generator | None = None) -> Tensor:
    """Uniform on the eight dark squares of a 4 × 4 board of side 4.

    Args:
        n: how many points. generator: the source of randomness, the global one if None.
    Raises:
        ValueError: n below 1. TypeError: a generator that is no torch.Generator.

    Example:
        >>> import torch
        >>> x = checkerboard(1000, torch.Generator().manual_seed(0))
        >>> (x.floor().long().sum(1) % 2).unique()  # dark: columns and rows of an even sum
        tensor([0])
    """
    u, v, z = _draws(n, generator)
    x, y = 4 * u - 2, 2 * v
    row = torch.where(z[:, 0] > 0, 0.0, -2.0)
    return torch.stack([x, (y % 1) + row + (x.floor() % 2)], 1)


def swiss_roll(n: int, generator: torch.Generator | None = None, noise: float = 0.05) -> Tensor:
    """A spiral of one and a half turns.

    Args:
        n: how many points. generator: the source of randomness, the global one if None.
            noise: around it, its standard deviation.
    Raises:
        ValueError: n below 1, noise below 0. TypeError: a generator that is no torch.Generator.

    Example:
        >>> import math, torch
        >>> x = swiss_roll(1000, torch.Generator().manual_seed(0), noise=0.0)
        >>> radius = (x + torch.tensor([0.25, 1 / (12 * math.pi)])).norm(dim=1)
        >>> bool(((radius > 1.5 * math.pi / 8) & (radius < 4.5 * math.pi / 8)).all())
        True
    """
    u, _, z = _draws(n, generator)
    angle = 1.5 * math.pi * (1 + 2 * u)
    return _around(_plane(angle / 8, angle), noise, z) - torch.tensor([0.25, 1 / (12 * math.pi)], device=u.device)


def pinwheel(n: int, generator: torch.Generator | None = None, arms: int = 5) -> Tensor:
    """Bent arms around the origin.

    Args:
        n: how many points. generator: the source of randomness, the global one if None. arms: how many.
    Raises:
        ValueError: n below 1, arms below 1. TypeError: a generator that is no torch.Generator.

    Example:
        >>> import torch
        >>> x = pinwheel(10_000, torch.Generator().manual_seed(0))
        >>> bool(x.mean(0).norm() < 0.03), round(float(x.norm(dim=1).mean()), 1)
        (True, 1.0)

    Reference: Johnson et al. (2016), arXiv 1603.06277 (its synthetic data).
    """
    _, side, z = _draws(n, generator)
    radius = 1.0 + 0.3 * z[:, 0]
    width = 0.1 * z[:, 1]
    angle = 2 * math.pi * (side * _checks.count("arms", arms)).floor() / arms + 0.25 * radius.exp()
    along, across = _plane(radius, angle), _plane(width, angle + math.pi / 2)
    return along + across
