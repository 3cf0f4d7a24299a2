"""Where the noise of a step comes from: independent increments, or those of one Brownian path a sample.

A stochastic sampler declares which, by its field `noise`. Either comes from a generator, or from one seed a sample;
then sample i is the same whatever its batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.process.base import Process, randn

Draw = Callable[[Sequence[int]], Tensor]
"""shape -> standard normal numbers of that shape."""

Noise = Literal["independent", "path"]
NOISES = ("independent", "path")

LEAF = 2.0**-14
"""The finest interval of a path's tree, in the clock λ = ½ log(α²/σ²); times of a grid must lie further apart."""

GOLDEN, FIRST, SECOND = -0x61C8864680B583EB, -0x40A7B892E31B1A47, -0x6B2FB644ECCEEE15


def scramble(z: Tensor) -> Tensor:
    """A bijection of 64-bit integers whose values at 0, GOLDEN, 2 GOLDEN, ... look independent.

    Reference: Steele, Lea and Flood (2014), Fast splittable pseudorandom number generators, fig. 16.
    """
    z = (z ^ ((z >> 30) & (2**34 - 1))) * FIRST
    z = (z ^ ((z >> 27) & (2**37 - 1))) * SECOND
    return z ^ ((z >> 31) & (2**33 - 1))


def normals(keys: Tensor, label: int, size: int) -> Tensor:
    """Standard normal numbers (B, size), a function of a key a sample and a label: no state, any order.

    Args:
        keys: (B,), int64.
    """
    stream = scramble(keys + GOLDEN * torch.tensor(label))
    count = torch.arange(1, size + 1, device=keys.device)
    bits = scramble(stream[:, None] + GOLDEN * count) >> 11
    return math.sqrt(2) * torch.erfinv((bits.double() + 0.5) * 2.0**-52)


class Source:
    """Standard normal numbers by shape, for one batch of samples; and its Brownian path.

    Args:
        like: what the numbers are like in dtype and device. batch: B.
        generator: the source of randomness, the global one if None. seeds: B whole numbers instead.
    """

    def __init__(
        self,
        like: Tensor,
        batch: int,
        generator: torch.Generator | None = None,
        seeds: Sequence[int] | Tensor | None = None,
    ) -> None:
        _checks.device_of(generator)
        if generator is not None and seeds is not None:
            raise ValueError("give generator or seeds, not both")
        self.like, self.batch, self.generator, self.drawn = like, batch, generator, 0
        self.keys = None if seeds is None else scramble(_seeds(seeds, batch).to(self._home))

    def __call__(self, shape: Sequence[int]) -> Tensor:
        """Independent numbers."""
        if self.keys is None:
            return randn(shape, self.generator, self.like.device, self.like.dtype)
        if shape[0] != self.batch:
            raise ValueError(f"with seeds, noise is drawn for the whole batch of {self.batch}, not for {shape[0]}")
        self.drawn += 1
        return self._shaped(normals(self.keys, self.drawn, math.prod(shape[1:])), shape)

    def path(self, shape: Sequence[int]) -> BrownianPath:
        """A Brownian path a sample: with seeds, a function of the seed; else drawn from the generator."""
        if self.keys is None:
            where = _checks.device_of(self.generator, self._home)
            size = (shape[0],)
            keys = torch.randint(-(2**63), 2**63 - 1, size, generator=self.generator, device=where).to(self._home)
        else:
            keys = scramble(~self.keys)
        size = math.prod(shape[1:])
        return BrownianPath(lambda label: self._shaped(normals(keys, label, size), shape))

    @property
    def _home(self) -> torch.device:
        """Where integers are turned into normals: where the numbers are needed, if that device has float64."""
        return torch.device("cpu") if self.like.device.type == "mps" else self.like.device

    def _shaped(self, values: Tensor, shape: Sequence[int]) -> Tensor:
        return values.to(self.like.dtype).to(self.like.device).reshape(tuple(shape))


class BrownianPath:
    """W(u) for every real u, W(0) = 0, made where it is asked: a virtual Brownian tree in each unit of u.

    Every number of the path has a label: 2m for the midpoint or end m LEAF, 2a + 1 for the leaf that begins at
    a LEAF. A midpoint is the mean of the ends of its interval, of length h, plus √h/2 times its normal; within a
    leaf W is the straight line plus the bridge's deviation times the leaf's normal. So W is a function of the
    labels' normals alone, whatever is asked and in what order; and the joint law of its values at any times, no
    two of them in one leaf, is exactly Brownian (docs/theory, eq. 23). The intervals around the last u are kept:
    going on by Δ costs about log₂(Δ/LEAF) + 3 normals.

    Args:
        normal: label -> standard normal numbers of the state's shape, always the same for a label.

    Reference: Li et al. (2020), arXiv 2001.01328, sec. 4 and algorithm 3.
    """

    def __init__(self, normal: Callable[[int], Tensor]) -> None:
        self.normal = normal
        self.nest: list[tuple[int, int, Any, Any]] = [(0, 0, 0.0, 0.0)]  # (low, high, W(low), W(high)), in leaves

    def __call__(self, u: float) -> Tensor:
        spot = u / LEAF
        while len(self.nest) > 1 and not self.nest[-1][0] <= spot < self.nest[-1][1]:
            self.nest.pop()
        if not self.nest[-1][0] <= spot < self.nest[-1][1]:
            self.nest = [self._unit(math.floor(u))]
        low, high, left, right = self.nest[-1]
        while high - low > 1:
            middle = (low + high) // 2
            value = (left + right) / 2 + math.sqrt((high - low) * LEAF) / 2 * self.normal(2 * middle)
            low, high, left, right = (low, middle, left, value) if spot < middle else (middle, high, value, right)
            self.nest.append((low, high, left, right))
        share = spot - low
        return left + share * (right - left) + math.sqrt(LEAF * share * (1 - share)) * self.normal(2 * low + 1)

    def _unit(self, cell: int) -> tuple[int, int, Any, Any]:
        """The unit interval that begins at `cell`: W walks there from where it was, by whole units."""
        leaves = round(1 / LEAF)
        last, _, value, _ = self.nest[0]
        for i in range(last // leaves, cell):
            value = value + self.normal(2 * leaves * (i + 1))
        for i in range(last // leaves, cell, -1):
            value = value - self.normal(2 * leaves * i)
        return cell * leaves, (cell + 1) * leaves, value, value + self.normal(2 * leaves * (cell + 1))


def increments(noise: Noise, process: Process, source: Draw) -> Callable[[float, float], Draw]:
    """(t, s) -> the source of the step from t to s, as the sampler's `noise` declares it.

    "independent": the source itself. "path": (W(u_s) − W(u_t))/√(u_s − u_t), once a step, in the clock
    u = ½ log(α²/σ²) that all processes share.
    """
    return (lambda t, s: source) if noise == "independent" else _Steps(process, source)


class _Steps:
    """The normalised increments of one path a sample, made with the first step; W at the last time is kept."""

    def __init__(self, process: Process, source: Draw) -> None:
        if not isinstance(source, Source):
            raise TypeError(f"noise='path' needs the noise of a Source, got {source!r}; write Source(x, len(x))")
        self.process, self.source = process, source
        self.path: BrownianPath | None = None
        self.last: tuple[float, Tensor | None] = (math.nan, None)
        self.done: tuple[float, float] | None = None

    def __call__(self, t: float, s: float) -> Draw:
        return partial(self._draw, t, s)

    def _draw(self, t: float, s: float, shape: Sequence[int]) -> Tensor:
        if self.done == (t, s):
            raise ValueError("noise='path' has one increment a step, and this sampler draws more; use 'independent'")
        self.done = (t, s)
        u, v = (self.process.at("logsnr", at) / 2 for at in (t, s))
        if math.isinf(u) or math.isinf(v):
            raise ValueError(f"no Brownian path spans t = {t:g} to {s:g}, for log(α²/σ²) is infinite there")
        if math.floor(u / LEAF) == math.floor(v / LEAF):
            raise ValueError(
                f"grid is too fine for noise='path': from t = {t:g} to {s:g}, ½ log(α²/σ²) grows by {v - u:.1g}, and "
                f"{LEAF:.1g} is needed; take fewer steps or 'independent' noise"
            )
        self.path = self.path or self.source.path(shape)
        at, start = self.last
        if start is None or at != u:
            start = self.path(u)
        self.last = v, (end := self.path(v))
        return (end - start) / math.sqrt(abs(v - u))


def _seeds(seeds: Any, batch: int) -> Tensor:
    """(B,) int64."""
    try:
        whole = [_checks.count("seeds", s, -(2**63)) for s in seeds]
        if any(s >= 2**63 for s in whole):
            raise ValueError(f"seeds must lie below 2**63, got {max(whole)}")
    except TypeError as error:
        raise TypeError(f"seeds must be {batch} whole numbers, got {seeds!r}; write seeds=range({batch})") from error
    if len(whole) != batch:
        raise ValueError(f"seeds must hold one whole number for each of {batch} samples, got {len(whole)}")
    return torch.tensor(whole, dtype=torch.int64)
