"""Whole levels as plain tensors: the digits, and uniform noise in the bins."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.data.data import require


def digits(held_out: int = 297, seed: int = 0) -> tuple[Tensor, Tensor]:
    """scikit-learn's handwritten digits, shuffled: (train, held-out), each (N, 8, 8) of levels 0..16 (int64).

    Raises:
        ImportError: without scikit-learn (the extra "data").

    Reference: Alpaydin and Kaynak (1998), Optical recognition of handwritten digits, UCI.
    """
    images = torch.as_tensor(require("sklearn.datasets", "digits").load_digits().images).long()
    held_out = _checks.count("held_out", held_out)
    if held_out >= len(images):
        raise ValueError(f"held_out must be below {len(images)}, got {held_out}")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(_checks.count("seed", seed, 0)))
    return images[order[held_out:]], images[order[:held_out]]


def dequantize(
    x: Tensor, levels: int, low: float = -1.0, high: float = 1.0, generator: torch.Generator | None = None
) -> Tensor:
    """Levels 0..levels − 1 with uniform noise, as numbers that fill [low, high]: level k its k-th bin.

    Reference: Theis et al. (2016), arXiv 1511.01844, sec. 3.1.
    """
    x, levels = _checks.table("x", x), _checks.count("levels", levels, 2)
    low, high = _checks.number("low", low), _checks.number("high", high)
    source = _checks.device_of(generator, x.device)
    noise = torch.rand(x.shape, generator=generator, device=source).to(x.device)
    return low + (high - low) / levels * (x + noise)


def dequantized(x: Tensor, levels: int) -> Callable[[int, torch.Generator | None], Tensor]:
    """A source of batches for `fit`: random rows of the levels x: (N, *), dequantized anew each time."""

    def draw(n: int, generator: torch.Generator | None = None) -> Tensor:
        source = _checks.device_of(generator, x.device)
        rows = torch.randint(len(x), (n,), generator=generator, device=source).to(x.device)
        return dequantize(x[rows], levels, generator=generator)

    return draw
