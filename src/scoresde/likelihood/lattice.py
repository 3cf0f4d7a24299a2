"""Integer data: the bins its levels stand for, and how to recognise it as numbers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.scaling import check_levels

SEEN = 4096
"""How many numbers are looked at."""

FEWEST = 64
"""How many numbers it takes to say anything."""

MOST = 1024
"""Levels of a lattice that are taken for discrete data."""


@dataclass(frozen=True)
class Bins:
    """Level k is [low + k width, low + (k + 1) width] in the model's data space; low, width: shape of one sample."""

    levels: int
    low: Tensor
    width: Tensor

    @classmethod
    def of(cls, x: Any, levels: Any, low: Any, high: Any) -> Bins:
        """The bins of integer data x: (B, *), all three checked."""
        levels = _checks.count("levels", levels, 2)
        x = check_levels("x", x, levels)
        if x.numel() == 0 or x.ndim < 2:
            raise ValueError(f"x must have shape (B, *) with at least one number, got {tuple(x.shape)}")
        ends = []
        for name, value in (("low", low), ("high", high)):
            if isinstance(value, (bool, str)) or value is None:
                raise TypeError(f"{name} must be a number or a tensor, got {value!r}")
            wide = _checks.table(name, value).to(x.device).double()
            if not bool(torch.isfinite(wide).all()):
                raise ValueError(f"{name} must be finite")
            try:
                ends.append(wide.expand(x.shape[1:]))
            except RuntimeError:
                raise ValueError(
                    f"{name} must broadcast to one sample, {tuple(x.shape[1:])}, got {tuple(wide.shape)}"
                ) from None
        if not bool((ends[0] < ends[1]).all()):
            raise ValueError(f"low must be below high, got {float(ends[0].max()):g} and {float(ends[1].min()):g}")
        return cls(levels, ends[0], (ends[1] - ends[0]) / levels)

    @property
    def narrowest(self) -> float:
        return float(self.width.min())

    def place(self, x: Tensor, y: Tensor) -> Tensor:
        """The points at y in [0, 1] of the bins of x: (B, *), float64."""
        return self.low + self.width * (x + y)


def looks_discrete(x: Tensor) -> bool:
    """Whether numbers x: (B, *) look like integer data that was scaled but not dequantized.

    They lie on a lattice of at most 1024 levels, coarser than their dtype's, and repeat: all of them, or those of
    every slice x[:, c] by itself (channels or columns scaled each in its own way). Points that differ from each other
    in at most four columns and never repeat are a grid. With fewer than 64 numbers, or in doubt, the answer is no.

    Example:
        >>> import torch
        >>> images = torch.randint(256, (4, 16, 16)) / 127.5 - 1
        >>> looks_discrete(images), looks_discrete(images + torch.rand(4, 16, 16) / 127.5)
        (True, False)
    """
    x = x.detach()
    if x.ndim < 1 or x.numel() < FEWEST or not x.is_floating_point():
        return False
    flat = x.reshape(len(x), -1)
    pooled = _on_lattice(flat)
    if not pooled and (x.ndim < 2 or x.numel() // x.shape[1] < FEWEST):
        return False
    varying = (flat[:SEEN] != flat[:1]).any(0).nonzero().flatten()
    if len(x) > 1 and len(varying) <= 4:
        points = flat[:SEEN, varying]
        if not len(varying) or len(torch.unique(points, dim=0)) > len(points) // 2:
            return False
        return len(torch.unique(points)) > 2 and (pooled or _on_lattice(points))
    if pooled:
        return True
    slices = [x[:, int(c)] for c in torch.linspace(0, x.shape[1] - 1, min(8, x.shape[1])).round()]
    slices = [part for part in slices if bool((part != part.flatten()[0]).any())]
    return bool(slices) and all(_on_lattice(part) for part in slices)


def _on_lattice(x: Tensor) -> bool:
    """Whether numbers repeat and are whole multiples of one step from the least of them."""
    count = x.numel()
    places = torch.arange(min(SEEN, count), device=x.device)
    if count > SEEN:  # scattered by a large prime: no column of an image is preferred
        places = (places * 2654435761) % count
    resolution, seen = torch.finfo(x.dtype).eps, x.flatten()[places].double()
    values = torch.unique(seen)
    if not 2 <= len(values) <= min(len(seen) // 2, MOST):
        return False
    gaps = values.diff()
    step = gaps[gaps < 1.5 * gaps.min()].mean()  # the least gap has the most rounding in it
    if values[-1] - values[0] > (MOST - 1) * step or step < 4 * resolution * values.abs().max():
        return False
    whole = (gaps / step).round().cumsum(0)
    return bool(((values[1:] - values[0]) / step - whole).abs().max() < 0.1)
