"""What an interactive figure is made of: controls, and panels with a frame for each of their positions.

A frame array's leading axes are the scene's controls, in order: as long as the control, or 1 where it changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Extent = tuple[float, float, float, float]
"""Left, right, bottom, top."""


@dataclass(frozen=True)
class Control:
    """A slider or a choice. name: what it is called. values: what each position is called. start: the first shown."""

    name: str
    values: Sequence[str]
    kind: Literal["slider", "choice"] = "slider"
    start: int = 0


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
    """A part of the plane. density: (*controls, H, W), rows from the bottom up, shaded by the share of the frame's peak.

    points: name → (*controls, N, 2). arrows: name → (*controls, M, 2), from the places at: (M, 2), drawn at one scale.
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


@dataclass(frozen=True)
class Scene:
    """One interactive figure. about: a sentence or two below the title. panels: from left to right."""

    title: str
    about: str
    controls: Sequence[Control]
    panels: Sequence[Picture | Lines | Plane | Numbers]
