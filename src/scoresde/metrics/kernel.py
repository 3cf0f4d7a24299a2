"""Distances from a kernel: the maximum mean discrepancy and the energy distance."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scoresde.metrics import _checks

Kernel = Callable[[Tensor], Tensor]
"""A kernel as a function of squared distances."""


def mmd(x: Tensor, y: Tensor, bandwidth: float | None = None) -> float:
    """The squared maximum mean discrepancy with a Gaussian kernel, estimated without bias.

    MMD² = E k(X, X′) + E k(Y, Y′) − 2 E k(X, Y),  k(x, y) = exp(−‖x − y‖²/(2 h²)), as a U-statistic: pairs of a sample
    with itself are left out. So the mean is the true value at any size of the sets, and about half of the values of
    two sets of one law are below zero. Between N(m₁, s² I) and N(m₂, s² I) in D dimensions it is
    2 (h²/(h² + 2 s²))^{D/2} (1 − exp(−‖m₁ − m₂‖²/(2 (h² + 2 s²)))).

    Args:
        x: (N, *), samples. y: (M, *), real ones. bandwidth: h; None for the median distance between two of y, so that
            it does not depend on the samples.
    Raises:
        ValueError: sets of different shapes, fewer than 2 samples, numbers that are not finite, no positive bandwidth.

    Example:
        >>> import torch
        >>> x = torch.randn(500, 3, generator=torch.Generator().manual_seed(0))
        >>> mmd(x + 5, x - 5, bandwidth=1.0) > 0.1
        True

    Reference: Gretton et al. (2012), A kernel two-sample test, JMLR 13, lemma 6.
    """
    x, y = _checks.two_sets(x, y, 2)
    return _estimate(x, y, _gaussian(y, bandwidth))[0]


def energy_distance(x: Tensor, y: Tensor) -> float:
    """2 E‖X − Y‖ − E‖X − X′‖ − E‖Y − Y′‖, estimated without bias.

    A U-statistic as `mmd`, of the kernel −‖x − y‖; no bandwidth. In one dimension it is 2 ∫ (F − G)² for the
    distribution functions F and G.

    Args:
        x: (N, *), samples. y: (M, *), real ones.
    Raises:
        ValueError: sets of different shapes, fewer than 2 samples, numbers that are not finite.

    Example:
        >>> import torch
        >>> energy_distance(torch.zeros(4, 1), torch.ones(4, 1))
        2.0

    Reference: Székely and Rizzo (2013), Energy statistics, J. Stat. Plan. Inference 143.
    """
    return _estimate(*_checks.two_sets(x, y, 2), _distance)[0]


def mmd_estimate(x: Tensor, y: Tensor, *_: Any) -> tuple[float, float]:
    """`mmd` and its standard error at that bandwidth; see `_estimate`."""
    x, y = _checks.two_sets(x, y, 4)
    return _estimate(x, y, _gaussian(y, None))


def energy_estimate(x: Tensor, y: Tensor, *_: Any) -> tuple[float, float]:
    """`energy_distance` and its standard error; see `_estimate`."""
    return _estimate(*_checks.two_sets(x, y, 4), _distance)


def _distance(squares: Tensor) -> Tensor:
    return -squares.sqrt()


def _gaussian(y: Tensor, bandwidth: float | None) -> Kernel:
    if bandwidth is None:
        gaps = _checks.squares(*_checks.centred(y, y)).sqrt()
        rows, columns = torch.triu_indices(len(y), len(y), 1, device=y.device)
        bandwidth = float(gaps[rows, columns].median())
        if bandwidth == 0.0:
            raise ValueError("half of the distances in y are 0: give the bandwidth, such as mmd(x, y, bandwidth=1.0)")
    h = _checks.positive("bandwidth", bandwidth)
    return lambda squares: torch.exp(-squares / (2 * h * h))


def _estimate(x: Tensor, y: Tensor, kernel: Kernel) -> tuple[float, float]:
    """The U-statistic and a standard error, s² = J + 3 B.

    J is the jackknife's variance, 4 Var(a)/N + 4 Var(b)/M with a_i = mean k(x_i, x) − mean k(x_i, y). Its mean is the
    variance's first-order part and twice the second-order one, B, which is estimated without bias from the centred
    kernel. Far from x ~ y B is negligible. Near it the statistic is no longer normal but a sum of squares, whose
    estimates err low together with J: 3 B more keep the interval honest, and make it about twice too wide where the
    laws are equal.
    """
    x, y = _checks.centred(x, y)
    n, m = len(x), len(y)
    xx, _, xx2 = _sums(x, x, kernel, same=True)
    yy, _, yy2 = _sums(y, y, kernel, same=True)
    xy, yx, xy2 = _sums(x, y, kernel)
    value = float(xx.sum() / (n * (n - 1)) + yy.sum() / (m * (m - 1)) - 2 * xy.sum() / (n * m))
    if min(n, m) < 4:
        return value, 0.0
    one, two = xx / (n - 1) - xy / m, yy / (m - 1) - yx / n
    jackknife = float(4 * one.var() / n + 4 * two.var() / m)
    cross = xy2 - float(xy.square().sum()) / m - float(yx.square().sum()) / n + float(xy.sum()) ** 2 / (n * m)
    cross /= (n - 1) * (m - 1)
    second = 2 * _centred(xx, xx2) / (n * (n - 1)) + 2 * _centred(yy, yy2) / (m * (m - 1)) + 4 * cross / (n * m)
    return value, math.sqrt(jackknife + 3 * max(second, 0.0))


def _centred(rows: Tensor, square: float) -> float:
    """E k̃(X, X′)² of the centred kernel, without bias, from the sums over rows and of squares of k without diagonal."""
    n, total = len(rows), float(rows.sum())
    return (square - 2 * float(rows.square().sum()) / (n - 2) + total**2 / ((n - 1) * (n - 2))) / (n * (n - 3))


def _sums(x: Tensor, y: Tensor, kernel: Kernel, same: bool = False) -> tuple[Tensor, Tensor, float]:
    """Sums of k over rows (N,), over columns (M,) and of k², block by block; without the diagonal if `same`."""
    rows, columns, square = [], y.new_zeros(len(y)), 0.0
    for start in range(0, len(x), 1024):
        k = kernel(_checks.squares(x[start : start + 1024], y))
        if same:
            k.diagonal(start).zero_()
        rows.append(k.sum(1))
        columns += k.sum(0)
        square += float(k.square().sum())
    return torch.cat(rows), columns, square
