"""Pictures; matplotlib is in the extra "experiments"."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scoresde._files import whole

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colour-blind-safe palette."""

STYLES = ("-", (0, (4, 2)), "-.", ":", (0, (1, 1)), (0, (5, 1, 1, 1)))
"""Curves that coincide stay visible."""


class Theme(NamedTuple):
    """What is not a curve's own colour; `faint` stands back."""

    ink: str
    paper: str
    faint: str


LIGHT = Theme("#1f2328", "#ffffff", "#6e7781")
DARK = Theme("#e6e8eb", "#15181c", "#9aa4af")


def canvas(width: float, height: float, theme: Theme = LIGHT) -> Any:
    """An empty matplotlib Figure of so many inches, which matplotlib's global state does not know of."""
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib; install scoresde[experiments]") from error
    return Figure(figsize=(width, height), dpi=150, layout="constrained", facecolor=theme.paper)


def dress(axis: Any, theme: Theme = LIGHT, grid: bool = True) -> None:
    """Give an axis the theme's colours, two spines and a faint grid; call it last, when its labels and legend stand."""
    axis.set_facecolor("none")
    axis.tick_params(which="both", colors=theme.ink, labelsize=8)
    for text in (axis.title, axis.xaxis.label, axis.yaxis.label):
        text.set_color(theme.ink)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)
    if grid:
        axis.grid(color=theme.faint, alpha=0.25, linewidth=0.6)
    if (legend := axis.get_legend()) is not None:
        legend.set_frame_on(False)
        for text in (*legend.get_texts(), legend.get_title()):
            text.set_color(theme.ink)


def save(figure: Any, path: Path | str) -> None:
    """Write a figure; a PNG with at most 256 colours, which lines and shades do not miss."""
    from PIL import Image

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole(path) as draft:
        figure.savefig(draft, format=path.suffix[1:] or "png", facecolor=figure.get_facecolor())
        if path.suffix == ".png":
            Image.open(draft).convert("RGB").quantize(256).save(draft, format="png", optimize=True)


def images(rows: Mapping[str, Tensor], path: Path | str, low: float = -1.0, high: float = 1.0, title: str = "") -> None:
    """One labelled row of grey images for each entry, (N, H, W) each, written to `path`."""
    shown = min(len(x) for x in rows.values())
    figure = canvas(1.6 + 0.52 * shown, 0.62 * len(rows) + (0.4 if title else 0.1))
    axes = figure.subplots(len(rows), shown, squeeze=False)
    for line, (name, x) in zip(axes, rows.items()):
        for axis, image in zip(line, x.detach().cpu()):
            axis.imshow(image.numpy(), cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
            axis.set_xticks([])
            axis.set_yticks([])
            for side in axis.spines.values():
                side.set_visible(False)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    figure.savefig(path)


def losses(
    curves: Mapping[str, Sequence[float]], path: Path | str, smooth: int = 100, ylabel: str = "loss",
    at: Sequence[int] | None = None,
) -> None:  # fmt: skip
    """Training losses against the step, each the running mean of `smooth` steps, written to `path`.

    at: the steps that the values are of, where they are not one a step; then each may be a mean already.
    """
    figure = canvas(6.4, 4.0)
    axis = figure.subplots()
    for color, style, (name, values) in zip(COLORS, STYLES, curves.items()):
        series = torch.tensor(list(values), dtype=torch.float64)
        window = min(smooth, len(series))
        mean = series.unfold(0, window, 1).mean(1).numpy()
        steps = range(window, len(series) + 1) if at is None else list(at)[window - 1 :]
        marker = "" if len(mean) > 1 else "o"
        axis.plot(steps, mean, label=name, color=color, linestyle=style, linewidth=1.8, marker=marker)
    axis.set(xlabel="training step", ylabel=ylabel if at else f"{ylabel} (mean of {smooth} steps)")
    if all(value > 0 for values in curves.values() for value in values):  # those of implicit matching are not
        axis.set_yscale("log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.grid(alpha=0.3, which="both")
    if any(curves):
        axis.legend(frameon=False)
    figure.savefig(path)


def samples(groups: Mapping[str, Tensor], path: Path | str, levels: int | None = None) -> None:
    """Samples as what they are, one panel a group, written to `path`, in the frame of "real", or of the first.

    Images (N, 1 or 3, H, W) as tiles, in a square, or in one row each for more than two groups; waves (N, C, L) as
    lines; points (N, 2) in the plane; tables (N, D) as the histograms of their first columns and the planes of each
    two; anything else flattened to a table.

    Args:
        groups: name → raw samples (N, *). levels: of images of whole numbers 0..levels − 1; by the frame's range if
            None.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     samples({"samples": torch.zeros(4, 1, 8, 8)}, Path(folder, "samples.png"))
        ...     Path(folder, "samples.png").exists()
        True
    """
    groups = {name: x.detach().cpu().double() for name, x in groups.items()}
    frame = groups.get("real", next(iter(groups.values())))
    if frame.ndim == 4 and frame.shape[1] in (1, 3):
        figure = _tiles(groups, frame, levels)
    elif frame.ndim == 3:
        figure = _waves(groups, frame)
    elif frame.ndim == 2 and frame.shape[1] == 2:
        figure = _planes(groups, frame)
    else:
        figure = _tables({name: x.flatten(1) for name, x in groups.items()}, frame.flatten(1))
    figure.savefig(path)


def _panels(groups: Mapping[str, Tensor], width: float, height: float, most: int = 4, sharey: bool = False):
    """A figure with a panel a group, at most so many in a row, and the panels."""
    columns = min(len(groups), most)
    rows = -(-len(groups) // columns)
    figure = canvas(width * columns, height * rows)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=sharey).ravel()
    for axis in axes[len(groups) :]:
        axis.set_axis_off()
    for axis, name in zip(axes, groups):
        axis.set_title(name, fontsize=10)
    return figure, axes


def _tiles(groups: Mapping[str, Tensor], frame: Tensor, levels: int | None, in_row: int = 16):
    """Each group's images in a square of squares; in a row for many groups."""
    low, high = (0.0, levels - 1.0) if levels else (float(frame.min()), float(frame.max()))
    many = len(groups) > 2
    figure, axes = _panels(groups, 8.4, 0.8, 1) if many else _panels(groups, 4.0, 4.3)
    for axis, x in zip(axes, groups.values()):
        side = min(len(x), in_row) if many else math.isqrt(len(x))
        rows = 1 if many else max(1, len(x) // max(side, 1))
        tiles = torch.nn.functional.pad((x[: side * rows] - low) / max(high - low, 1e-12), (1, 1, 1, 1), value=1.0)
        _, channels, height, width = tiles.shape
        picture = tiles.clamp(0, 1).unflatten(0, (rows, side)).permute(0, 3, 1, 4, 2)
        picture = picture.reshape(rows * height, side * width, channels)
        axis.imshow(picture.squeeze(-1).numpy(), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axis.set_axis_off()
    return figure


def _waves(groups: Mapping[str, Tensor], frame: Tensor, lines: int = 8):
    """The first channel of a few waves of each group, one above the other."""
    figure, axes = _panels(groups, 4.2, 5.0, 3, sharey=True)
    apart = 2.5 * float(frame[:lines].abs().max().clamp_min(1e-12))
    for i, (axis, x) in enumerate(zip(axes, groups.values())):
        for j, wave in enumerate(x[:lines, 0]):
            axis.plot(wave.numpy() - j * apart, color=COLORS[i % len(COLORS)], linewidth=0.9)
        axis.set(xlabel="place", yticks=[])
    return figure


def _planes(groups: Mapping[str, Tensor], frame: Tensor):
    """Each group's points in the plane, all in the frame's, and a little more."""
    figure, axes = _panels(groups, *((4.2, 4.3) if len(groups) < 3 else (2.6, 2.8)))
    middle, half = (frame.amax(0) + frame.amin(0)) / 2, 0.6 * float((frame.amax(0) - frame.amin(0)).max())
    half = max(half, 1e-12)
    for i, (axis, (name, x)) in enumerate(zip(axes, groups.items())):
        outside = int(((x - middle).abs() > half).any(1).sum())
        axis.scatter(*x.T.numpy(), s=4, color=COLORS[i % len(COLORS)], alpha=0.5, linewidths=0)
        axis.set_title(name + (f" ({outside} outside)" if outside else ""), fontsize=10)
        axis.set(xlim=(float(middle[0]) - half, float(middle[0]) + half), aspect="equal")
        axis.set_ylim(float(middle[1]) - half, float(middle[1]) + half)
    return figure


def _tables(groups: Mapping[str, Tensor], frame: Tensor, most: int = 4):
    """The first columns: histograms on the diagonal, each two below it."""
    columns = min(most, frame.shape[1])
    figure = canvas(1.0 + 1.9 * columns, 0.6 + 1.9 * columns)
    axes = figure.subplots(columns, columns, squeeze=False)
    for i in range(columns):
        bins = torch.linspace(float(frame[:, i].min()) - 1e-9, float(frame[:, i].max()) + 1e-9, 31).numpy()
        for j in range(columns):
            for color, (name, x) in zip(COLORS, groups.items()):
                if i == j:
                    axes[i, i].hist(x[:, i].numpy(), bins, density=True, histtype="step", color=color, label=name)
                elif j < i:
                    axes[i, j].scatter(x[:, j].numpy(), x[:, i].numpy(), s=3, color=color, alpha=0.4, linewidths=0)
            axes[i, j].tick_params(labelsize=6)
            if j > i:
                axes[i, j].set_axis_off()
        axes[-1, i].set_xlabel(f"column {i + 1}", fontsize=8)
    axes[0, 0].legend(frameon=False, fontsize=7)
    return figure
