"""The page of a folder of lessons: of each its headline, its claim, the picture, the table and the command."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from scoresde._files import whole
from scoresde.explore.page import render


def headline(path: Path) -> str:
    """The first line of a lesson's docstring."""
    return said(path)[0]


def said(path: Path) -> tuple[str, list[str], list[str]]:
    """What a lesson's docstring says: its first line, its paragraphs, its references; commands are left out."""
    doc = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "") if path.exists() else ""
    first, _, rest = doc.partition("\n")
    blocks = [block.strip("\n") for block in rest.split("\n\n") if block.strip()]
    plain = [" ".join(block.split()) for block in blocks if not block.startswith((" ", "python "))]
    references = [block for block in plain if block.startswith("Reference")]
    return first or path.stem, [block for block in plain if block not in references], references


def write(out: Path, records: Mapping[str, Any], home: Path) -> None:
    """Write out/index.html over the records of lessons, whose files are in `home`; it is whole or not there."""
    sections = []
    for name, record in records.items():
        first, about, references = said(home / f"{name}.py")
        table = out / f"{name}.txt"
        text = table.read_text(encoding="utf-8").rstrip() if table.exists() and not record.error else ""
        parts = {"name": name, "title": first, "about": about, "references": references, "table": text}
        sections.append({**parts, "command": record.command, "seconds": record.seconds, "error": record.error})
    html = render(Path(__file__).with_suffix(".html"), images="'self'", sections=sections)
    with whole(out / "index.html") as draft:
        draft.write_text(html, encoding="utf-8")
