"""What the lessons share: their command line, and where they write.

A lesson is a file with three functions. `measure(quick, device)` computes, and returns a frozen dataclass; `table` says
it in text; `draw` in a picture, for a light page or a dark one. Those that `scoresde explore` shows have a fourth,
`scene`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from scoresde.plots import DARK, LIGHT, Theme, save


def main(
    name: str,
    doc: str,
    measure: Callable[[bool, str], Any],
    table: Callable[[Any], str],
    draw: Callable[[Any, Theme], Any],
) -> None:
    """Measure, print the table, and write it beside the picture, as OUT/name.txt, name.png and name-dark.png."""
    parser = argparse.ArgumentParser(description=doc.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/figures"))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--quick", action="store_true", help="smaller, to see that it runs")
    options = parser.parse_args()
    begun = time.perf_counter()
    result = measure(options.quick, options.device)
    text = table(result)
    print(text, flush=True)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{name}.txt").write_text(text + "\n", encoding="utf-8")
    for theme, ending in ((LIGHT, ""), (DARK, "-dark")):
        save(draw(result, theme), options.out / f"{name}{ending}.png")
    print(f"{time.perf_counter() - begun:.0f} s; wrote {name}.png, {name}-dark.png and {name}.txt to {options.out}/")


def rows(head: Sequence[str], body: Sequence[Sequence[Any]], digits: int = 3) -> str:
    """A table in text: the first column to the left, the others to the right; floats with so many digits."""

    def said(value: Any) -> str:
        return f"{value:.{digits}g}" if isinstance(value, float) else str(value)

    cells = [[said(value) for value in row] for row in (head, *body)]
    wide = [max(len(row[i]) for row in cells) for i in range(len(head))]
    lines = ["  ".join([row[0].ljust(wide[0]), *map(str.rjust, row[1:], wide[1:])]) for row in cells]
    return "\n".join([lines[0], "─" * len(lines[0]), *lines[1:]])
