"""Data by rows: raw values in memory or in files, their labels, and how they become what a model sees."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib import import_module
from typing import Any, Protocol

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.scaling import Scaling

EAGER = 2**28
"""Up to so many bytes, files are read once and kept in memory, if `lazy` is not said."""

PACKAGES = {"sklearn": "scikit-learn", "skimage": "scikit-image", "PIL": "pillow"}


Place = Callable[[int, tuple[int, ...]], str]
"""What to call the entry `rest` of a row."""


class Source(Protocol):
    """Samples that are read when they are asked for."""

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, *)."""
        ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Tensor) -> Tensor:
        """(B, *) for rows (B,) in 0..N − 1."""
        ...


@dataclass(frozen=True, eq=False)
class Data:
    """Samples by rows, with their labels and their scaling.

    Args:
        values: (N, *), raw: floats, or the whole levels 0..scaling.levels − 1; or a `Source` that reads them.
        labels: (N,) int64 in 0..len(classes) − 1, a negative one for a sample without label; None without labels.
        scaling: how raw values become x.
        name: what to call the data. classes: a name for each label, numbers if not given.
        measured: whether the scaling was measured on these samples; `split` then measures it on its training part.
        rate: samples a second, of sound.
        rows: (N,), the rows of `values` that these data are; None for all.
    Raises:
        ValueError, TypeError: values that are not finite or outside the levels, labels of another length or unknown.

    Example:
        >>> import torch
        >>> from scoresde.scaling import Scaling
        >>> data = Data(torch.tensor([[0, 3], [1, 2]]), torch.tensor([1, 0]), Scaling.of_levels(4), "pairs", ("a", "b"))
        >>> data
        pairs: 2 samples of shape (2,), 4 levels, 2 classes
        >>> x, cond = data.batch(torch.tensor([1]))
        >>> data.scaling.inverse(x), cond
        (tensor([[1, 2]]), {'label': tensor([0])})
    """

    values: Tensor | Source
    labels: Tensor | None = None
    scaling: Scaling = field(default_factory=Scaling)
    name: str = "data"
    classes: tuple[str, ...] = ()
    measured: bool = False
    rate: int | None = None
    rows: Tensor | None = None

    def __post_init__(self) -> None:
        _checks.kind("scaling", self.scaling, Scaling, "Scaling.of_levels(256)")
        if not isinstance(getattr(self.values, "shape", None), tuple):
            raise TypeError(f"values must be a tensor (N, *) or read like one, got {type(self.values).__name__}")
        if len(self.values.shape) < 2 or not math.prod(self.values.shape):
            raise ValueError(f"values must have shape (N, *) with something in it, got {tuple(self.values.shape)}")
        if isinstance(self.values, Tensor) and self.rows is None:
            check_values(self.values, self.scaling.levels)
            self.scaling(self.values[:1], noise=torch.tensor(0.5))  # does one sample fit?
        if self.labels is not None:
            _checks.kind("labels", self.labels, Tensor, "torch.tensor([0, 1])")
            if self.labels.shape != (len(self),) or self.labels.dtype != torch.int64:
                got = f"{tuple(self.labels.shape)} of {self.labels.dtype}"
                raise ValueError(f"labels must be ({len(self)},) of torch.int64, a label for each sample, got {got}")
            largest = int(self.labels.max())
            if not self.classes:
                object.__setattr__(self, "classes", tuple(map(str, range(largest + 1))))
            if largest >= len(self.classes):
                raise ValueError(f"labels must lie below {len(self.classes)}, the number of classes, got {largest}")

    def __len__(self) -> int:
        return len(self.values if self.rows is None else self.rows)

    def __repr__(self) -> str:
        levels = f", {self.scaling.levels} levels" if self.scaling.levels else ""
        classes = f", {len(self.classes)} classes" if self.classes else ""
        return f"{self.name}: {len(self)} samples of shape {self.shape}{levels}{classes}"

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.values.shape[1:])

    def raw(self, rows: Tensor) -> Tensor:
        """(B, *) raw values of rows (B,) in 0..N − 1."""
        rows = _checks.whole_numbers("rows", rows, "(B,) whole numbers")
        if rows.ndim != 1:
            raise TypeError(f"rows must be (B,) whole numbers, got {tuple(rows.shape)} of {rows.dtype}")
        if rows.numel() and not 0 <= int(rows.min()) <= int(rows.max()) < len(self):
            raise ValueError(f"rows must lie in 0..{len(self) - 1}, got {int(rows.min())} to {int(rows.max())}")
        rows = rows.long() if self.rows is None else self.rows[rows.to(self.rows.device)]
        return self.values[rows.to(self.values.device) if isinstance(self.values, Tensor) else rows.cpu()]

    def batch(self, rows: Tensor, generator: torch.Generator | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """x: (B, *) float32 of rows (B,), levels with noise in their bins; and {"label": (B,)}, if there are labels."""
        x = self.scaling(self.raw(rows), generator).float()
        return x, {} if self.labels is None else {"label": self.labels[torch.as_tensor(rows).to(self.labels.device)]}

    def split(self, held_out: int | float, seed: int = 0) -> tuple[Data, Data]:
        """(train, held-out), at random, the same for the same seed; a scaling measured on data is the training part's.

        Args:
            held_out: how many samples, or which share of them, between 0 and 1.
        """
        if isinstance(held_out, float):
            if not 0 < held_out < 1:
                raise ValueError(f"held_out must be a whole number, or a share between 0 and 1, got {held_out:g}")
            held_out = max(1, round(held_out * len(self)))
        if _checks.count("held_out", held_out) >= len(self):
            raise ValueError(f"held_out must be below {len(self)}, the number of samples, got {held_out}")
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(_checks.count("seed", seed, 0)))
        train, held = self._only(order[held_out:]), self._only(order[:held_out])
        if self.measured:
            scaling = measure(train.raw(torch.arange(len(train))))
            train, held = replace(train, scaling=scaling), replace(held, scaling=scaling)
        return train, held

    def to(self, device: torch.device | str) -> Data:
        """The same data with what is in memory on `device`; files are still read to the CPU."""
        values = self.values.to(device) if isinstance(self.values, Tensor) else self.values
        return replace(self, values=values, labels=None if self.labels is None else self.labels.to(device))

    def _only(self, order: Tensor) -> Data:
        rows = order if self.rows is None else self.rows[order]
        labels = None if self.labels is None else self.labels[order.to(self.labels.device)]
        return replace(self, rows=rows, labels=labels)


def measure(raw: Tensor) -> Scaling:
    """Each column of a table (N, D) centred and of unit spread; larger samples by one mean and one spread."""
    if raw.ndim == 2:
        return Scaling.of(raw)
    whole = Scaling.of(raw.reshape(-1, 1))
    return Scaling(float(whole.shift), float(whole.scale))


def settle(source: Source, lazy: bool | None, itemsize: int) -> Tensor | Source:
    """What a source holds, in memory; or the source itself, if `lazy`, or by its size where lazy is None."""
    if lazy if lazy is not None else math.prod(source.shape) * itemsize > EAGER:
        return source
    return source[torch.arange(len(source))]


def check_values(values: Tensor, levels: int | None, place: Place | None = None) -> None:
    """Refuse the first value that is NaN, infinite or outside the levels, naming its place: row and the rest."""
    if values.is_floating_point():
        if bool(torch.isfinite(values).all()):
            return
        bad, wanted = ~torch.isfinite(values), "every value must be finite"
    elif levels is None:
        raise TypeError(f"values must be floats, got {values.dtype}; write values.float(), or a scaling with levels")
    else:
        low, high = (int(end) for end in values.aminmax())
        if 0 <= low <= high < levels:
            return
        bad, wanted = (values.long() < 0) | (values.long() >= levels), f"levels must lie in 0..{levels - 1}"
    row, *rest = bad.nonzero()[0].tolist()
    where = place(row, tuple(rest)) if place else f"values: row {row}, entry {tuple(rest)}"
    raise ValueError(f"{where} is {values[(row, *rest)].item():g}: {wanted}")


def require(module: str, what: str, install: str = "scoresde[data]") -> Any:
    """An optional package's module; without it, an error that says what to install."""
    try:
        return import_module(module)
    except (ImportError, RuntimeError, OSError) as error:  # the latter two where it does not fit the installed torch
        package = PACKAGES.get(name := module.split(".")[0], name)
        why = "" if isinstance(error, ImportError) else f", which does not load here ({str(error)[:160]})"
        raise ImportError(f"{what} needs {package}{why}; install {install}") from error
