"""Where batches come from: the same ones in the same order, whatever the number of processes, and after a stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, cast, runtime_checkable

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.process.base import randn
from scoresde.scaling import Scaling

MEASURED = 10_000
"""How many samples moments are measured on, where data are by rows or drawn by a function."""

LARGEST = 100_000_000
"""How many numbers they may be together."""

RESERVED = {"t", "noise", "generator", "weighting", "times", "projections", "x0", "model", "x"}
"""Names that losses and networks have for themselves."""


@runtime_checkable
class Rows(Protocol):
    """Data by rows, such as scoresde.data.load("digits"): raw values, labels or None, and how they become x."""

    scaling: Scaling
    labels: Tensor | None

    def __len__(self) -> int: ...

    def raw(self, rows: Tensor) -> Tensor:
        """(n, *) raw values of rows (n,): always the same for a row."""
        ...


Data = Tensor | Rows | Callable[[int, torch.Generator | None], Any]
"""(N, *); or data by rows; or a function (n, generator) -> (n, *), or -> ((n, *), conditions), that draws a batch."""


class Source:
    """Batches of data on the network's device and in its dtype, with their conditions.

    Tensors and data by rows are gone through in a new random order every epoch, batches running on from one
    epoch into the next.

    Args:
        data: as `Data`. like: a tensor of the network. generator: of the order and of dequantization.
        conditional: whether data by rows come with their labels.
    """

    def __init__(self, data: Data, like: Tensor, generator: torch.Generator | None, conditional: bool = False) -> None:
        self.like, self.generator, self.conditional = like, generator, conditional
        self.epoch = self.place = 0
        self.order = torch.empty(0, dtype=torch.int64)
        if isinstance(data, Tensor):
            _checks.state("data", data)
            if data.ndim < 2 or not data.numel():
                raise ValueError(f"data must have shape (N, *) with at least one number, got {tuple(data.shape)}")
            data = data.to(like)
        elif isinstance(data, Rows):
            if not len(data):
                raise ValueError("data must hold at least one sample")
            if conditional and data.labels is None:
                raise ValueError(f"conditional: the data ({data!r}) have no labels")
        elif not callable(data):
            raise TypeError(f"data must be a tensor (N, *), scoresde.data.load(...), or a function, got {data!r}")
        if conditional and not isinstance(data, Rows):
            raise ValueError("conditional belongs to data by rows; a function returns its conditions itself")
        self.data = data
        self.scaling = None if isinstance(data, Tensor) or callable(data) else data.scaling

    def batch(self, n: int, part: slice) -> tuple[Tensor, dict[str, Tensor]]:
        """The samples `part` of the next batch of n, (k, *), and their conditions."""
        if not isinstance(self.data, (Tensor, Rows)):
            x, cond = self._drawn(n)
            return x[part], {name: value[part] for name, value in cond.items()}
        return self._rows(self._next(n), part)

    def sample(self) -> Tensor:
        """(N, *), data to measure moments on; leaves the order of batches alone."""
        if isinstance(self.data, Tensor):
            return self.data
        kept, self.generator = self.generator, torch.Generator().manual_seed(0)
        try:
            if not isinstance(self.data, Rows):
                pieces = [self._drawn(MEASURED // 10)[0] for _ in range(10)]
                return torch.cat(pieces)
            few = min(MEASURED, max(2, LARGEST // self.data.raw(torch.zeros(1, dtype=torch.int64)).numel()))
            rows = torch.randperm(len(self.data), generator=self.generator)[:few]
            return torch.cat([self._rows(some, slice(None))[0] for some in rows.split(1000)])
        finally:
            self.generator = kept

    def state(self) -> dict[str, int]:
        """The place in the data: enough to go on from here."""
        return {"epoch": self.epoch, "place": self.place, "rows": self.count}

    def restore(self, state: dict[str, int]) -> None:
        """Go on from `state`, which must be of as many rows."""
        if int(state["rows"]) != self.count:
            raise ValueError(f"checkpoints are of {state['rows']} rows of data, not {self.count}; name another folder")
        self.epoch, self.place = int(state["epoch"]), int(state["place"])
        if self.place and isinstance(self.data, (Tensor, Rows)):
            self.order = self._shuffled()

    @property
    def count(self) -> int:
        """How many rows there are; 0 of a function."""
        return len(self.data) if isinstance(self.data, (Tensor, Rows)) else 0

    def _next(self, n: int) -> Tensor:
        rows = []
        while n:
            if self.place >= len(self.order):
                where = _checks.device_of(self.generator)
                self.epoch = int(torch.randint(2**62, (), generator=self.generator, device=where))
                self.place, self.order = 0, self._shuffled()
            rows.append(self.order[self.place : self.place + n])
            self.place += len(rows[-1])
            n -= len(rows[-1])
        return rows[0] if len(rows) == 1 else torch.cat(rows)

    def _shuffled(self) -> Tensor:
        order = torch.randperm(len(cast(Any, self.data)), generator=torch.Generator().manual_seed(self.epoch))
        return order.to(self.data.device) if isinstance(self.data, Tensor) else order

    def _rows(self, rows: Tensor, part: slice) -> tuple[Tensor, dict[str, Tensor]]:
        data, mine = self.data, rows[part]
        if isinstance(data, Tensor):
            return data.index_select(0, mine), {}
        data = cast(Rows, data)
        raw, noise = data.raw(mine), None
        if data.scaling.levels is not None:  # for the whole batch, so that a sample's noise is the same in any split
            source = _checks.device_of(self.generator)
            noise = torch.rand((len(rows), *raw.shape[1:]), generator=self.generator, device=source)[part].to(
                raw.device
            )
        labels = data.labels if self.conditional else None
        cond = {} if labels is None else {"label": labels[mine.to(labels.device)].to(self.like.device)}
        return data.scaling(raw, noise=noise).to(self.like), cond

    def _drawn(self, n: int) -> tuple[Tensor, dict[str, Tensor]]:
        drawn = cast(Callable[..., Any], self.data)(n, self.generator)
        x, cond = drawn if isinstance(drawn, tuple) else (drawn, {})
        x = _checks.state("data", x).to(self.like)
        if x.ndim < 2 or len(x) != n:
            raise ValueError(f"data must return ({n}, *) when asked for {n} samples, got {tuple(x.shape)}")
        if not isinstance(cond, dict):
            raise TypeError(f"data must return x, or x and a dict of conditions, got {type(cond).__name__}")
        for name, value in cond.items():
            if name in RESERVED:
                raise ValueError(f"data: a condition cannot have the name {name!r}; rename it, in the network too")
            if not isinstance(value, Tensor) or value.shape[:1] != (n,):
                got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
                raise ValueError(f"data: the condition {name!r} must be a tensor ({n}, *), got {got}")
        return x, {name: value.to(self.like.device) for name, value in cond.items()}


def without(
    cond: dict[str, Tensor], drop: float, n: int, part: slice, generator: torch.Generator | None
) -> dict[str, Tensor]:
    """Conditions with a share `drop` of a batch's n samples left without: integers −1, other numbers 0."""
    if not cond or not drop:
        return cond
    lost = torch.rand(n, generator=generator, device=_checks.device_of(generator))[part] < drop
    return {name: _blank(value, lost.to(value.device)) for name, value in cond.items()}


def _blank(value: Tensor, lost: Tensor) -> Tensor:
    if value.dtype in (torch.uint8, torch.uint16, torch.uint32, torch.uint64):
        raise TypeError(f"a condition of {value.dtype} has no number for its absence; write value.long(), or drop=0")
    gone = -1 if value.dtype in (torch.int8, torch.int16, torch.int32, torch.int64) else 0
    return value.masked_fill(lost.reshape(-1, *[1] * (value.ndim - 1)), gone)


def noise_of(x: Tensor, n: int, part: slice, generator: torch.Generator | None) -> Tensor:
    """The part of a batch's standard normal noise that belongs to x: (k, *)."""
    return randn((n, *x.shape[1:]), generator, x.device, x.dtype)[part]
