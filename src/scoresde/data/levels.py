"""Whole levels as plain tensors: the digits, and uniform noise in the bins."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.data.data import require
from scoresde.scaling import Scaling, check_levels


def digits(held_out: int = 297, seed: int = 0) -> tuple[Tensor, Tensor]:
    """scikit-learn's handwritten digits, shuffled: (train, held-out), each (N, 8, 8) of levels 0..16 (int64).

    Args:
        held_out: how many. seed: of the shuffle.
    Raises:
        ImportError: without scikit-learn (the extra "data"). ValueError: held_out outside 1..1796, seed below 0.

    Example:
        >>> train, held = digits()
        >>> train.shape, held.shape, int(train.max())
        (torch.Size([1500, 8, 8]), torch.Size([297, 8, 8]), 16)

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

    Args:
        x: (*), whole numbers. levels: how many, at least 2. low, high: the ends.
        generator: the source of the noise, the global one if None.
    Returns:
        (*), float32, each number inside its bin.
    Raises:
        ValueError: levels outside 2..65536 or of x outside of them, low not below high. TypeError: x not of integers.

    Example:
        >>> import torch
        >>> levels = torch.arange(4)
        >>> ((dequantize(levels, 4) + 1) * 2).floor().long().equal(levels)
        True

    Reference: Theis et al. (2016), arXiv 1511.01844, sec. 3.1.
    """
    levels, low, high = _checks.count("levels", levels, 2), _checks.number("low", low), _checks.number("high", high)
    if not low < high:
        raise ValueError(f"high must be above low, got {high:g} and {low:g}")
    scale = levels / (high - low)
    return Scaling(-low * scale, scale, levels)(check_levels("x", x, levels), generator)


def dequantized(x: Tensor, levels: int) -> Callable[[int, torch.Generator | None], Tensor]:
    """A source of batches for `fit`: random rows of the levels x: (N, *), dequantized anew each time.

    Args:
        x: (N, *), levels. levels: how many.
    Returns:
        (n, generator) -> (n, *), in [−1, 1].
    Raises:
        ValueError, TypeError: as `dequantize`.

    Example:
        >>> import torch
        >>> batch = dequantized(torch.tensor([[0], [3]]), 4)(1000, torch.Generator().manual_seed(0))
        >>> ((batch + 1) * 2).floor().unique()
        tensor([0., 3.])

    Reference: Theis et al. (2016), arXiv 1511.01844, sec. 3.1.
    """
    check_levels("x", x, _checks.count("levels", levels, 2))

    def draw(n: int, generator: torch.Generator | None = None) -> Tensor:
        source = _checks.device_of(generator, x.device)
        rows = torch.randint(len(x), (n,), generator=generator, device=source).to(x.device)
        return dequantize(x[rows], levels, generator=generator)

    return draw
