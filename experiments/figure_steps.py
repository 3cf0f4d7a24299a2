"""The figure of steps against quality, from what the two benchmarks wrote.

    python experiments/benchmark_samplers.py && python experiments/benchmark_stochastic.py
    python experiments/figure_steps.py [--targets mixture "other digits"] [--stochastic mixture]
        [--out docs/figures/steps.png]

Left: error of the endpoint, RMSE a dimension, against calls of the network; packages by the best of all their
configurations, chosen anew at every number of calls, and methods by the best of their grids in any package. Right:
the score of stochastic samplers (1 is what exact samples score), with the best chosen on other seeds.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from scoresde.plots import COLORS

LINES = (
    # label, which rows (package, sampler) belong to it, style
    ("diffusers, best", lambda package, sampler: package == "diffusers", {"color": COLORS[1]}),
    ("k-diffusion, best", lambda package, sampler: package == "k-diffusion", {"color": COLORS[2]}),
    ("azula, best", lambda package, sampler: package == "azula", {"color": COLORS[3]}),
    ("DDIM", lambda package, sampler: sampler.startswith("DDIM"), {"color": "0.6", "linestyle": ":"}),
    ("DPM-Solver++ 2M", lambda package, sampler: sampler.startswith(("DPM-Solver++(2M)", "dpmpp_2m ")),
     {"color": "0.6", "linestyle": "--"}),
    ("UniPC", lambda package, sampler: sampler.startswith("UniPC"), {"color": "0.6", "linestyle": "-."}),
    ("scoresde, default", lambda package, sampler: package == "scoresde",
     {"color": COLORS[0], "linewidth": 2.4, "markersize": 4.5}),
)  # fmt: skip

STOCHASTIC = (
    # label, the side whose best of the final heat it is, or how the names of a first heat begin, style
    ("peers, best", "peers", {"color": COLORS[1]}),
    ("DDPM (diffusers)", "DDPM(fixed", {"color": "0.6", "linestyle": ":"}),
    ("Euler ancestral", ("Euler ancestral", "euler_ancestral"), {"color": "0.6", "linestyle": "--"}),
    ("scoresde, best", "ours", {"color": COLORS[0], "linewidth": 2.4, "markersize": 4.5}),
)


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def least(rows: list[dict[str, str]], column: str) -> tuple[list[int], list[float]]:
    """The least value at every number of calls."""
    best: dict[int, float] = {}
    for row in rows:
        value, nfe = float(row[column] or "nan"), int(row["nfe"])
        if value == value:
            best[nfe] = min(value, best.get(nfe, float("inf")))
    return sorted(best), [best[nfe] for nfe in sorted(best)]


def of_heat(chosen: Any, row: dict[str, str]) -> bool:
    if row["final"] == "1":
        return row["side"] == chosen
    return row["sampler"].startswith(chosen)


def curves(axis: Axes, rows: list[dict[str, str]], lines: Any, belongs: Callable, column: str) -> None:
    for label, chosen, style in lines:
        calls, values = least([row for row in rows if belongs(chosen, row)], column)
        if calls:
            axis.plot(calls, values, marker="o", label=label, **{"linewidth": 1.3, "markersize": 3, **style})


def dress(axis: Axes, title: str, ylabel: str) -> None:
    axis.set(xscale="log", yscale="log")
    axis.set_xlabel("calls of the network", fontsize=9)
    axis.set_title(title, fontsize=9)
    axis.set_ylabel(ylabel, fontsize=9)
    axis.grid(alpha=0.25, linewidth=0.6)
    axis.tick_params(labelsize=8, which="both")
    ticks = sorted({int(x) for line in axis.lines for x in line.get_xdata()})
    ticks = [t for t in ticks if t in (5, 10, 20, 50, 100, 250, 1000)]
    axis.set_xticks(ticks, [str(t) for t in ticks], minor=False)
    axis.set_xticks([], minor=True)


def draw(ode: Path, sde: Path, targets: list[str], stochastic: str, out: Path) -> None:
    figure = Figure(figsize=(9.6, 3.5), dpi=100, layout="constrained")
    axes = figure.subplots(1, len(targets) + 1)
    rows = read(ode)
    for axis, target in zip(axes, targets):
        some = [row for row in rows if row["target"] == target]
        curves(axis, some, LINES, lambda chosen, row: chosen(row["package"], row["sampler"]), "rmse")
        dress(axis, f"{target}: endpoint of the ODE", "RMSE a dimension")
    some = [row for row in read(sde) if row["target"] == stochastic]
    curves(axes[-1], some, STOCHASTIC, of_heat, "score")
    dress(axes[-1], f"{stochastic}: stochastic samplers", "error, in units of exact samples'")
    axes[-1].axhline(1.0, color="0.3", linewidth=0.8)
    ticks = [t for t in (1, 2, 3, 5, 10, 20, 50, 100) if t <= axes[-1].get_ylim()[1]]
    axes[-1].set_yticks(ticks, [str(t) for t in ticks])
    axes[-1].set_yticks([], minor=True)
    axes[0].legend(fontsize=7, frameon=False, loc="lower left")
    axes[-1].legend(fontsize=7, frameon=False, loc="upper right")
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out)
    Image.open(out).convert("RGB").quantize(64).save(out, optimize=True)  # a third of the bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--ode", type=Path, default=Path("runs/benchmark/vp.csv"))
    parser.add_argument("--sde", type=Path, default=Path("runs/benchmark/stochastic.csv"))
    parser.add_argument("--targets", nargs="+", default=["mixture", "other digits"])
    parser.add_argument("--stochastic", default="mixture")
    parser.add_argument("--out", type=Path, default=Path("docs/figures/steps.png"))
    options = parser.parse_args()
    draw(options.ode, options.sde, options.targets, options.stochastic, options.out)
    print(f"written to {options.out} ({options.out.stat().st_size / 1000:.0f} kB)")


if __name__ == "__main__":
    main()
