"""What an interactive figure is made of: controls, and panels with a frame for each of their positions.

A frame array's leading axes are the scene's controls, in order: as long as the control, or 1 where it changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np

from scoresde import _checks

Extent = tuple[float, float, float, float]
"""Left, right, bottom, top."""


@dataclass(frozen=True)
class Control:
    """A slider or a choice. name: what it is called. values: what each position is called. start: the first shown."""

    name: str
    values: Sequence[str]
    kind: Literal["slider", "choice"] = "slider"
    start: int = 0

    def __post_init__(self):
        _checks.choice("kind", self.kind, ("slider", "choice"))
        if not self.values or not all(isinstance(value, str) for value in self.values):
            raise ValueError(f"control {self.name!r}: values must be text, such as ['0.0', '0.5'], got {self.values!r}")
        if not 0 <= self.start < len(self.values):
            raise ValueError(f"control {self.name!r}: start must be in 0..{len(self.values) - 1}, got {self.start}")


@dataclass(frozen=True)
class Picture:
    """A grey image. frames: (*controls, H, W). low, high: the values shown as black and white."""

    title: str
    frames: Any
    low: float = -1.0
    high: float = 1.0


@dataclass(frozen=True)
class Lines:
    """Curves over x: (N,). series: name → (*controls, N). mark: (*controls,), a vertical line there.

    bars: name → (*controls, N), a histogram with its middles at x, drawn below the curves.
    """

    title: str
    x: Any
    series: Mapping[str, Any]
    xlabel: str = ""
    ylabel: str = ""
    bars: Mapping[str, Any] = field(default_factory=dict)
    mark: Any = None
    log: Literal["", "x", "y", "xy"] = ""
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Plane:
    """A part of the plane. density: (*controls, H, W), at the middles of H by W cells.

    Its rows go from the bottom up; it is shaded by the share of the frame's peak. points: name → (*controls, N, 2).
    arrows: name → (*controls, M, 2), from the places at: (M, 2), drawn at one scale in the scene.
    """

    title: str
    extent: Extent
    density: Any = None
    points: Mapping[str, Any] = field(default_factory=dict)
    arrows: Mapping[str, Any] = field(default_factory=dict)
    at: Any = None


@dataclass(frozen=True)
class Numbers:
    """A small table. rows: label → (*controls,) numbers. digits: significant ones."""

    rows: Mapping[str, Any]
    digits: int = 3
    title: str = ""


Panel: TypeAlias = Picture | Lines | Plane | Numbers


@dataclass(frozen=True)
class Scene:
    """One interactive figure. about: a sentence or two below the title. panels: from left to right.

    Raises:
        ValueError: frames whose shape the controls do not say, that are not finite, or not positive on a log axis; a
            control that changes nothing.
    """

    title: str
    about: str
    controls: Sequence[Control]
    panels: Sequence[Panel]

    def __post_init__(self):
        lead, moved = tuple(len(control.values) for control in self.controls), set()
        for panel in self.panels:
            for name, values, tail in frames(panel):
                name = f"{self.title!r}, {type(panel).__name__} {panel.title!r}, {name}"
                moved |= _moved(name, np.shape(values), lead, tail)
                if not isinstance(panel, Numbers):
                    checked(name, values)
            if isinstance(panel, Lines):
                marks = [] if panel.mark is None else [panel.mark]
                if (np.diff(checked("x", panel.x)) < 0).any():
                    raise ValueError(f"{panel.title!r}: x must not fall")
                for axis, several in (("x", [panel.x, *marks]), ("y", [*panel.series.values(), *panel.bars.values()])):
                    if axis in panel.log and any(np.asarray(values).min() <= 0 for values in several):
                        raise ValueError(f"{panel.title!r}: what is on a log axis must be above 0, in {axis}")
        for i, control in enumerate(self.controls):
            if i not in moved and lead[i] > 1:
                raise ValueError(f"{self.title!r}: the control {control.name!r} changes nothing")


def frames(panel: Panel) -> Iterator[tuple[str, Any, tuple[int | None, ...]]]:
    """The arrays of a panel that the controls lead: what each is called, and its shape behind theirs; None is any."""
    match panel:
        case Picture():
            yield "frames", panel.frames, (None, None)
        case Lines():
            for name, values in (*panel.bars.items(), *panel.series.items()):
                yield name, values, (len(panel.x),)
            if panel.mark is not None:
                yield "mark", panel.mark, ()
        case Plane():
            if panel.density is not None:
                yield "density", panel.density, (None, None)
            for name, values in panel.points.items():
                yield name, values, (None, 2)
            for name, values in panel.arrows.items():
                yield name, values, (len(panel.at), 2)
        case Numbers():
            for name, values in panel.rows.items():
                yield name, values, ()


def checked(name: str, values: Any) -> np.ndarray:
    """An array of finite numbers."""
    array = np.asarray(values, dtype=float)
    if not np.isfinite(array).all():
        place = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        raise ValueError(f"{name} must be finite, got {array[place]} at {place}")
    return array


def _moved(name: str, shape: tuple[int, ...], lead: tuple[int, ...], tail: tuple[int | None, ...]) -> set[int]:
    """Which controls change an array of this shape; a ValueError if the controls do not say it."""
    wanted = (*lead, *tail)
    fits = len(shape) == len(wanted) and 0 not in shape
    for i, (got, want) in enumerate(zip(shape, wanted)):
        fits &= want is None or got == want or (got == 1 and i < len(lead))
    if not fits:
        said = ", ".join("any" if n is None else f"{n} or 1" if i < len(lead) else str(n) for i, n in enumerate(wanted))
        raise ValueError(f"{name} must have the shape ({said}), got {tuple(shape)}")
    return {i for i, got in enumerate(shape[: len(lead)]) if got > 1}
