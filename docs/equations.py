"""Equations as the theory has them, in plain text, set for a browser: indices, exponents, numbers at the right."""

from __future__ import annotations

import re
from html import escape

BASE = r"(?<![\w`])(?:div|[^\W\d_]|[∇∂∫Σ])[\u0300-\u036f²₀′']*"
GROUP = r"\{((?:[^{}]|\{[^{}]*\})*)\}"
WORD = r"[^\W_²³⁴⁵⁶]+"
INDEX = re.compile(rf"({BASE})_(?:{GROUP}|({WORD}))")
POWER = re.compile(rf"\^(?:{GROUP}|\(([^()]*)\)|([−+]?{WORD}))")


def html(text: str, names: tuple[str, ...] = ()) -> str:
    """Escaped text, with x_t, x_{t+1}, e^{−h} and u^k as indices and exponents; `names` are left as they are."""
    text = INDEX.sub(lambda m: m[0] if m[0] in names else f"{m[1]}<sub>{html(m[2] or m[3])}</sub>", text)
    return POWER.sub(lambda m: f"<sup>{html(m[1] or m[2] or m[3])}</sup>", text)


def displayed(block: str) -> str:
    """Lines of equations, each with its number, if it has one, at the right and as an anchor."""
    rows = []
    for line in block.splitlines():
        shown, _, number = re.sub(r"\s+\((\d+)\)$", r"\0\1", line.strip()).partition("\0")
        mark = f' id="eq-{number}"' if number else ""
        number = f"<span>({number})</span>" if number else ""
        rows.append(f'<div class="equation"{mark}><span>{html(escape(shown, quote=False))}</span>{number}</div>')
    return "\n".join(rows)


def typeset(page: str) -> str:
    """A page of Markdown, its indented lines as displayed equations; code is left as it is."""
    blocks = []
    for block in page.split("\n\n"):
        if all(line.startswith("    ") for line in block.splitlines() if line):
            blocks.append(displayed(block) if block.strip() else block)
        else:
            pieces = re.split(r"(`[^`]*`|\]\([^)]*\)|^\|[-| ]+\|$)", block, flags=re.M)
            blocks.append("".join(p if i % 2 else html(p.replace("<", "&lt;")) for i, p in enumerate(pieces)))
    return "\n\n".join(blocks)
