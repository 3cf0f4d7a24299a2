"""Standard errors of any statistic of two sets, by cutting both in two again and again."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def half_sampling(
    value: Callable[[Tensor, Tensor], float], n: int, m: int, draws: int, generator: torch.Generator
) -> float:
    """s² = mean over random cuts of (V − V′)²/4, V and V′ the statistic of complementary halves.

    The halves of both sets are independent, so that E (V − V′)² = 2 Var V exactly, and where Var V ∝ 1/n the mean
    of (V − V′)²/4 is the variance of the whole. Nothing is drawn twice, which a bootstrap would do: duplicates
    have neighbours at distance 0 and move every statistic of distances. Where the statistic is degenerate
    (Var V ∝ 1/n²) it gives twice the variance: conservative.

    Args:
        value: of the places (I,) and (J,) in the two sets, a number. n, m: sizes of the sets. draws: halves, two a cut.
    """
    total, cuts = 0.0, max(1, draws // 2)
    for _ in range(cuts):
        first = torch.randperm(n, generator=generator, device=generator.device)
        second = torch.randperm(m, generator=generator, device=generator.device)
        h, k = n // 2, m // 2
        total += (value(first[:h], second[:k]) - value(first[h : 2 * h], second[k : 2 * k])) ** 2
    return math.sqrt(total / cuts / 4)
