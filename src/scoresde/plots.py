"""Pictures; matplotlib is in the extra "experiments"."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colour-blind-safe palette."""

STYLES = ("-", (0, (4, 2)), "-.", ":", (0, (1, 1)), (0, (5, 1, 1, 1)))
"""Curves that coincide stay visible."""


def _figure(width: float, height: float):
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("plots need matplotlib; install scoresde[experiments]") from error
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def images(rows: Mapping[str, Tensor], path: Path | str, low: float = -1.0, high: float = 1.0, title: str = "") -> None:
    """One labelled row of grey images for each entry, (N, H, W) each, written to `path`."""
    shown = min(len(x) for x in rows.values())
    figure = _figure(1.6 + 0.52 * shown, 0.62 * len(rows) + (0.4 if title else 0.1))
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


def losses(curves: Mapping[str, Sequence[float]], path: Path | str, smooth: int = 100, ylabel: str = "loss") -> None:
    """Training losses against the step, each the running mean of `smooth` steps, written to `path`."""
    figure = _figure(6.4, 4.0)
    axis = figure.subplots()
    for color, style, (name, values) in zip(COLORS, STYLES, curves.items()):
        series = torch.tensor(list(values), dtype=torch.float64)
        window = min(smooth, len(series))
        mean = series.unfold(0, window, 1).mean(1).numpy()
        axis.plot(range(window, len(series) + 1), mean, label=name, color=color, linestyle=style, linewidth=1.8)
    axis.set(xlabel="training step", ylabel=f"{ylabel} (mean of {smooth} steps)", yscale="log")
    axis.yaxis.set_major_formatter("{x:g}")
    axis.yaxis.set_minor_formatter("{x:g}")
    axis.grid(alpha=0.3, which="both")
    axis.legend(frameon=False)
    figure.savefig(path)
