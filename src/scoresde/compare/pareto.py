"""The picture of a comparison: network calls against quality; matplotlib is in the extra "experiments"."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from scoresde._files import whole
from scoresde.compare.row import Row
from scoresde.compare.table import Column, floor, frontier, quality, rounded
from scoresde.plots import COLORS, DARK, LIGHT, STYLES, Theme, canvas

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "*")
"""Eleven beside six colours: sixty-six samplers before a look comes twice."""

PANELS = 16
"""The most (process, prediction) pairs drawn; of more, those with the best rows."""

Pair = tuple[str, str]
Floor = tuple[float, float] | None


def figure(rows: Sequence[Row], metric: str, dark: bool = False) -> Any:
    """NFE against the metric, one panel a process and prediction, one line a sampler, bars of one standard error.

    The floor of real samples is a band; the Pareto frontier over all rows is a thin staircase, the same in every panel,
    and its rows are ringed. Axes are shared. A matplotlib Figure, to be shown 900 px wide (one panel: 640 px).
    """
    theme, column, real, edge = (
        DARK if dark else LIGHT,
        quality(rows, metric),
        floor(rows, metric),
        frontier(rows, metric),
    )
    pairs: dict[Pair, list[int]] = {}
    for i in column.order:
        pairs.setdefault((rows[i].process, rows[i].prediction), []).append(i)
    places = _places(rows, list(pairs)[:PANELS])
    down, across = (1 + max(place[i] for place in places.values()) for i in (0, 1))
    samplers = list(dict.fromkeys(row.sampler for row in rows))
    lines = math.ceil(len(samplers) / min(4, max(2, 100 // max(map(len, samplers)))))
    picture = canvas(9.0 if across > 1 else 6.4, (2.5 if down > 1 else 3.6) * down + 0.75 + 0.2 * lines, theme)
    axes = picture.subplots(down, across, sharex=True, sharey=True, squeeze=False)
    for axis in axes.flat:
        axis.set_visible(False)
    for pair, place in places.items():
        axis, lowest = axes[place], (place[0] + 1, place[1]) not in places.values()
        axis.set_visible(True)
        _panel(axis, rows, column, pairs[pair], samplers, edge, real, theme)
        title = textwrap.wrap(", ".join(pair), 108 // across, max_lines=3, placeholder="…")
        axis.set_title("\n".join(title), fontsize=9, color=theme.ink, parse_math=False)
        axis.tick_params(which="both", colors=theme.ink, labelsize=8, labelbottom=lowest)
        axis.set_xlabel("NFE (calls a sample)" if lowest else "", fontsize=8.5, color=theme.ink)
        if place[1] == 0:
            axis.set_ylabel(f"{column.title} ({column.better} is better)", fontsize=8.5, color=theme.ink)
    _scales(axes[0, 0], column, real, sorted({max(row.nfe, 1) for row in rows}))
    if len(pairs) > PANELS:
        said = f"the {PANELS} best of {len(pairs)} pairs of process and prediction"
        picture.suptitle(said, fontsize=9, color=theme.ink)
    drawn = {rows[i].sampler for i, value in enumerate(column.values) if value is not None}
    looks = {name: _look(k, theme) for k, name in enumerate(samplers) if name in drawn}
    _legend(picture, looks, real, edge, theme, lines)
    return picture


def draw(rows: Sequence[Row], metric: str, path: Path | str, dark: bool = False) -> None:
    """`figure`, written to `path`: a PNG, SVG or PDF file by its name."""
    path = Path(path)
    with whole(path) as draft:
        figure(rows, metric, dark).savefig(draft, format=path.suffix[1:] or "png")


def _places(rows: Sequence[Row], chosen: Sequence[Pair]) -> dict[Pair, tuple[int, int]]:
    """Where each panel stands: processes against predictions where every pair is there, else in reading order."""
    ordered = [pair for pair in dict.fromkeys((row.process, row.prediction) for row in rows) if pair in chosen]
    tops, sides = (list(dict.fromkeys(pair[i] for pair in ordered)) for i in (0, 1))
    if len(ordered) == len(tops) * len(sides) and min(len(tops), len(sides)) > 1:
        if len(sides) <= len(tops) <= 4:
            return {(a, b): (sides.index(b), tops.index(a)) for a, b in ordered}
        if len(sides) <= 4:
            return {(a, b): (tops.index(a), sides.index(b)) for a, b in ordered}
    across = {1: 1, 2: 2, 3: 3, 5: 3, 6: 3, 9: 3}.get(len(ordered), 4)
    return {pair: divmod(i, across) for i, pair in enumerate(ordered)}


def _panel(
    axis: Any, rows: Sequence[Row], column: Column, mine: Sequence[int], samplers: Sequence[str],
    edge: Sequence[int], real: Floor, theme: Theme,
) -> None:  # fmt: skip
    def points(chosen: Sequence[int]) -> tuple[list[int], list[Any]]:
        return [rows[i].nfe for i in chosen], [column.values[i] for i in chosen]

    known = sorted((i for i in mine if column.values[i] is not None), key=lambda i: rows[i].nfe)
    for k, name in enumerate(samplers):
        line = [i for i in known if rows[i].sampler == name]
        bars = {"yerr": [column.error(i) for i in line], "elinewidth": 0.9, "capsize": 1.5}
        axis.errorbar(*points(line), **bars, linewidth=1.2, zorder=3, **_look(k, theme))
    if not known:
        axis.text(0.5, 0.5, "no value", transform=axis.transAxes, ha="center", color=theme.ink)
    if edge:
        nfe, values = points(edge)
        nfe, values = [*nfe, 10 * max(row.nfe for row in rows)], [*values, values[-1]]
        axis.step(nfe, values, where="post", color=theme.ink, linewidth=0.7, zorder=2)
        axis.plot(*points([i for i in edge if i in mine]), **_ring(theme), linestyle="none", zorder=4)
    if real:
        axis.axhspan(real[0] - real[1], real[0] + real[1], color=theme.faint, alpha=0.3, linewidth=0, zorder=0)
        axis.axhline(real[0], color=theme.faint, linewidth=0.8, zorder=0)
    axis.set_facecolor("none")
    axis.grid(color=theme.faint, alpha=0.25, linewidth=0.6)
    for side, spine in axis.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(theme.faint)


def _look(k: int, theme: Theme) -> dict[str, Any]:
    look = {"color": COLORS[k % len(COLORS)], "marker": MARKERS[k % len(MARKERS)], "markersize": 5}
    dashes = STYLES[k // len(COLORS) % len(STYLES)]
    return {**look, "linestyle": dashes, "markeredgecolor": theme.paper, "markeredgewidth": 0.5}


def _ring(theme: Theme) -> dict[str, Any]:
    return {
        "marker": "o", "markersize": 9, "markerfacecolor": "none", "markeredgecolor": theme.ink, "markeredgewidth": 1.1,
    }  # fmt: skip


def _scales(axis: Any, column: Column, real: Floor, nfe: Sequence[int]) -> None:
    """Logarithmic NFE; a metric that should be low logarithmic too, down to where it is no more than its error."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter, SymmetricalLogLocator

    def decades(side: Any, low: float, high: float, few: float) -> None:
        side.set_major_locator(LogLocator(subs=(1, 2, 5) if math.log10(high / low) < few else (1,), numticks=99))
        side.set_minor_locator(LogLocator(subs=range(2, 10), numticks=99))
        side.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        side.set_minor_formatter(NullFormatter())

    axis.set(xscale="log", xlim=(nfe[0] / 1.25, nfe[-1] * 1.25))
    decades(axis.xaxis, nfe[0], nfe[-1], 1.7)
    if len(nfe) <= 5 and all(b >= 1.4 * a for a, b in pairwise(nfe)):
        axis.xaxis.set_major_locator(FixedLocator(nfe))
    known = [(value, column.error(i)) for i, value in enumerate(column.values) if value is not None]
    if not known or column.better == "higher":
        return
    ends = [value for value, _ in known] + ([max(real)] if real else [])  # a floor of about zero stretches nothing
    errors = sorted(error for _, error in known if error)
    low, high, noise = min(ends), max(ends), 2 * errors[len(errors) // 4] if errors else 0.0
    if low > 0 and high > 4 * low and all(value > error for value, error in known):
        axis.set_yscale("log", nonpositive="clip")
        axis.set_ylim(low / (high / low) ** 0.08, high * (high / low) ** 0.08)
        decades(axis.yaxis, low, high, 1.5)
    elif 0 < 5 * noise < high:
        axis.set_yscale("symlog", linthresh=noise)
        axis.set_ylim(min(low - noise, 0), high * 1.6)
        few = (1, 2, 5) if high < 30 * noise else (1,)
        axis.yaxis.set_major_locator(SymmetricalLogLocator(base=10, linthresh=noise, subs=few))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def _legend(
    picture: Any, looks: Mapping[str, dict[str, Any]], real: Floor, edge: Sequence[int], theme: Theme, lines: int
) -> None:
    """Below the panels, where there is no data."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    handles: list[Any] = [Line2D([], [], **look) for look in looks.values()]
    names = [textwrap.shorten(name, 60, placeholder="…") for name in looks]
    if edge:
        handles.append(Line2D([], [], color=theme.ink, linewidth=0.7, **_ring(theme)))
        names.append("Pareto frontier, all panels" if len(picture.axes) > 1 else "Pareto frontier")
    if real:
        handles.append(
            (Patch(color=theme.faint, alpha=0.3, linewidth=0), Line2D([], [], color=theme.faint, linewidth=0.8))
        )
        names.append("floor, real against real: " + " ± ".join(filter(None, rounded(*real))))
    legend = picture.legend(
        handles, [str(i) for i in range(len(names))], loc="outside lower center", frameon=False, fontsize=8.5,
        ncols=max(2, math.ceil(len(looks) / lines)), handlelength=2.4, borderaxespad=0.1, columnspacing=1.6,
    )  # fmt: skip
    for text, name in zip(legend.get_texts(), names):
        text.set(text=name, color=theme.ink, parse_math=False)  # afterwards: a leading "_" would hide the entry
