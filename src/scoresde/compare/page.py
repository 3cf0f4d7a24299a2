"""The report of a comparison: one HTML file that fetches nothing."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from io import StringIO
from mimetypes import guess_type
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from scoresde._files import whole
from scoresde.compare import pareto
from scoresde.compare.row import Row
from scoresde.compare.table import Column, answers, at_floor, floor, frontier, quality, rounded, shown

NOTES = (
    "±: one standard error. Not told from the best: within two standard errors of the difference, both estimates taken "
    "as independent (cautious: they share real samples and starts). The best of many is a little lucky, and so is the "
    "frontier, which goes by the estimates alone.",
    "Seconds: of sampling, on the machine named below; short ones wander from run to run.",
)
FLOOR = (
    "Floor: what real samples score against other real samples, the mean ± the deviation over random splits. At the "
    "floor: within two deviations of it, or better; more samples might still tell the difference."
)


def write(
    path: Path | str,
    title: str,
    rows: Sequence[Row],
    metrics: Sequence[str],
    pictures: Mapping[str, Path] | None = None,
    about: Mapping[str, str] | None = None,
    notes: Sequence[str] = (),
) -> None:
    """Write a comparison as one HTML file: the answer, the Pareto picture, a table that sorts, samples, how it was run.

    Nothing is fetched, in light and dark, and all but the sorting works without JavaScript.

    Args:
        path: of the file; it is whole or not there. title: the headline. rows: the cells.
        metrics: names of METRICS or "flow_error", the deciding one first.
        pictures: caption → image file, taken into the page.
        about: heading → text, folded; such as the config.yaml and the environment. notes: footnotes.

    Raises:
        ValueError: there are no rows or no metrics, or a metric is unknown. OSError: a picture or the page's place.
    """
    heads = _heads(rows, metrics)
    floors = any(floor(rows, name) for name in metrics)
    html = _template().render(
        title=title,
        size=_size(rows),
        views=[_view(rows, name) for name in metrics],
        columns=heads,
        rows=_body(rows, metrics),
        floors=floors,
        pictures=[(caption, _embedded(Path(source))) for caption, source in (pictures or {}).items()],
        about=list((about or {}).items()),
        notes=[*notes, *NOTES, *([FLOOR] if floors else [])],
    )
    with whole(Path(path)) as draft:
        draft.write_text(html, encoding="utf-8")


def _template() -> Any:
    text = Path(__file__).with_suffix(".html").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(text)


def _size(rows: Sequence[Row]) -> str:
    """How large the comparison is, in words."""

    def number(many: int, one: str, more: str) -> str:
        return f"{many} {one if many == 1 else more}"

    kinds = {
        "process": ("process", "processes"),
        "prediction": ("prediction", "predictions"),
        "sampler": ("sampler", "samplers"),
        "steps": ("step count", "step counts"),
    }
    *most, last = (number(len({getattr(row, key) for row in rows}), *words) for key, words in kinds.items())
    return f"{number(len(rows), 'configuration', 'configurations')} of {', '.join(most)} and {last}"


def _view(rows: Sequence[Row], name: str) -> dict[str, Any]:
    """What is said of one metric."""
    column = quality(rows, name)
    return {
        "title": column.title,
        "better": column.better,
        "answers": answers(rows, name),
        "svg": _svg(rows, name),
        "many": len({(row.process, row.prediction) for row in rows}) > 1,
        "bars": any(column.errors),
        "floor": floor(rows, name) is not None,
    }


def _svg(rows: Sequence[Row], name: str) -> Markup | None:
    """The picture in the page's own colours; None without matplotlib."""
    try:
        from matplotlib import rc_context
    except ImportError:
        return None
    text, plain = StringIO(), dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with rc_context({"svg.hashsalt": name, "svg.fonttype": "path"}):
        picture = pareto.figure(rows, name)
        picture.savefig(text, format="svg", transparent=True, metadata=plain)
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", text.getvalue(), flags=re.DOTALL)
    for variable, color in pareto.LIGHT._asdict().items():
        svg = svg.replace(color, f"var(--{variable})")
    width = f"--width: {picture.get_figwidth() * 20 / 3:.0f}rem"
    label = f'<svg role="img" aria-label="NFE against {name}; the numbers are in the table" style="{width}" '
    return Markup(svg[svg.index("<svg") :].replace("<svg ", label, 1))


def _heads(rows: Sequence[Row], metrics: Sequence[str]) -> list[dict[str, str]]:
    heads = [{"title": "Pareto", "kind": "", "floor": "", "sort": ""}]
    for column in shown(rows, metrics):
        arrow = {"lower": " ↓", "higher": " ↑", "": ""}[column.better if column.key not in ("nfe", "seconds") else ""]
        real = rounded(*known) if column.key in metrics and (known := floor(rows, column.key)) else ("", "")
        sort = {"lower": "ascending", "higher": "descending"}[column.better] if column.key == metrics[0] else ""
        level = " ± ".join(filter(None, real)).replace("-", "−")
        heads.append({"title": column.title + arrow, "kind": _kind(column), "floor": level, "sort": sort})
    heads[1]["floor"] = "floor"
    return heads


def _body(rows: Sequence[Row], metrics: Sequence[str]) -> list[list[dict[str, str]]]:
    """The rows' cells, best first."""
    edge, reached = set(frontier(rows, metrics[0])), {name: at_floor(rows, name) for name in metrics}
    columns = [(column, column.ties, column.order[0]) for column in shown(rows, metrics)]
    body = []
    for i in quality(rows, metrics[0]).order:
        cells = [{"value": "1" if i in edge else "", "text": "◆" if i in edge else "", "error": "", "kind": "mark"}]
        for column, ties, top in columns:
            value, (text, error) = column.values[i], column.text(i)
            tied = ("best" if value == column.values[top] else "tie") if i in ties else ""
            floored = "floored" if i in reached.get(column.key, ()) else ""
            cells.append(
                {
                    "value": "" if value is None else str(value),
                    "text": text if _kind(column) else text.replace("-", "−"),
                    "error": error.replace("-", "−"),
                    "kind": " ".join(filter(None, (_kind(column), tied, floored))),
                }
            )
        body.append(cells)
    return body


def _kind(column: Column) -> str:
    return "name" if column.key in ("process", "prediction", "sampler") else ""


def _embedded(path: Path) -> str:
    kind = guess_type(path.name)[0] or "image/png"
    return f"data:{kind};base64,{b64encode(path.read_bytes()).decode()}"
