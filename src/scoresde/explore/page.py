"""Scenes as one HTML file that fetches nothing: every frame in it, and a script that only picks and draws them."""

from __future__ import annotations

import json
import math
import time
from base64 import b64encode
from collections.abc import Mapping, Sequence
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from scoresde._files import whole
from scoresde.explore import lessons
from scoresde.explore.codes import encode, said
from scoresde.explore.scene import Control, Lines, Numbers, Panel, Picture, Plane, Scene

SCENES = ("forward_process", "score_field", "walk_back", "steps_vs_quality", "guidance_sweep")
STYLES = 6  # as many as look.css has colours, and page.js ways to dash
HERE = Path(__file__).parent


def explore(out: Path = Path("runs/explore.html"), quick: bool = False) -> None:
    """Write the first five lessons as one page with sliders, for a browser; it needs no network.

    What noise does to a picture, the field of scores, the walk back from noise, steps against quality, and guidance:
    every position of every slider is computed by the library, in five minutes on two cores; the page only shows it.

    Args:
        out: the HTML file to write.
        quick: smaller, to see that it runs.
    """
    scenes = {}
    for name in SCENES:
        begun = time.monotonic()
        lesson = lessons.load(name)
        scenes[name] = lesson.scene(lesson.measure(quick, "cpu"))
        print(f"{name:<18}{time.monotonic() - begun:4.0f} s  {scenes[name].title}", flush=True)
    size = write(out, scenes)
    print(f"{out}: {size / 1e6:.1f} MB; open it in a browser")


def write(path: Path | str, scenes: Mapping[str, Scene]) -> int:
    """Write scenes, by the names of their lessons, as one HTML file; it is whole or not there. Returns its bytes.

    Pictures and densities are kept in 8 bits, curves, points and arrows in 16; numbers in tables are exact.

    Raises:
        ValueError: there are no scenes. OSError: the page's place.
    """
    if not scenes:
        raise ValueError("scenes must hold at least one Scene, by its lesson's name")
    script = (HERE / "page.js").read_text(encoding="utf-8")
    html = render(HERE / "page.html", script, sections=[section(name, scene) for name, scene in scenes.items()])
    with whole(Path(path)) as draft:
        draft.write_text(html, encoding="utf-8")
    return len(html.encode())


def render(template: Path, script: str = "", images: str = "'none'", **values: Any) -> str:
    """A page in the common look, whose content policy allows its own style and script, `images`, and nothing else."""
    text = template.read_text(encoding="utf-8")
    style = (HERE / "look.css").read_text(encoding="utf-8") + template.with_suffix(".css").read_text(encoding="utf-8")
    policy = (
        f"default-src 'none'; base-uri 'none'; img-src {images}; style-src {_hash(style)}; script-src {_hash(script)}"
    )
    parts = {"policy": policy, "style": Markup(style), "script": Markup(script)}
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(text).render(**parts, **values)


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def section(name: str, scene: Scene) -> dict[str, Any]:
    """What the template shows of a scene, and what the script draws of it."""
    hues, scale = _hues(scene.panels), min(map(_scale, scene.panels))
    panels = [_panel(panel, hues, scale) for panel in scene.panels]
    drawn = {"controls": [len(control.values) for control in scene.controls], "panels": [data for _, data in panels]}
    return {
        "name": name,
        "title": scene.title,
        "about": scene.about,
        "controls": [_control(control) for control in scene.controls],
        "panels": [shown for shown, _ in panels],
        "data": Markup(json.dumps(drawn, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")),
    }


def _control(control: Control) -> dict[str, Any]:
    """A control for the template; choices that are many or long fold."""
    long = len(control.values) > 5 or sum(map(len, control.values)) > 48
    kind = "slider" if control.kind == "slider" else "list" if long else "choice"
    values = list(control.values)
    return {"name": control.name, "values": values, "kind": kind, "start": control.start, "json": json.dumps(values)}


def _hues(panels: Sequence[Panel]) -> dict[str, int]:
    """One colour a name in all panels of a scene."""
    named: list[str] = []
    for panel in panels:
        match panel:
            case Lines():
                named += [*panel.bars, *panel.series]
            case Plane():
                named += [*panel.points, *panel.arrows]
    return {name: i % STYLES for i, name in enumerate(dict.fromkeys(named))}


def _styled(several: Mapping[str, Any], hues: Mapping[str, int]) -> dict[str, dict[str, int]]:
    """The colour of each name, and how a curve of it is dashed: the first is whole."""
    return {name: {"hue": hues[name], "dash": i % STYLES} for i, name in enumerate(several)}


def _scale(panel: Panel) -> float:
    """How long an arrow of length one is drawn: the longest reaches half beyond the next one's place."""
    if not isinstance(panel, Plane) or not panel.arrows:
        return math.inf
    left, right, bottom, top = panel.extent
    longest = max(float(np.linalg.norm(np.asarray(v, dtype=float), axis=-1).max()) for v in panel.arrows.values())
    return 1.5 * math.sqrt((right - left) * (top - bottom) / len(panel.at)) / max(longest, 1e-12)


def _panel(panel: Panel, hues: Mapping[str, int], scale: float) -> tuple[dict, dict]:
    """A panel for the template (title, kind, legend, rows), and for the script."""
    kind, title = type(panel).__name__.lower(), panel.title
    shown: dict[str, Any] = {"title": title, "kind": kind, "legend": [], "rows": []}
    match panel:
        case Picture():
            data = {"frames": encode(panel.frames, 8, panel.low, panel.high, name=title)}
        case Lines():
            shown["legend"] = _legend(hues, bar=panel.bars, line=panel.series)
            data = _lines(panel, hues)
        case Plane():
            shown["legend"] = _legend(hues, point=panel.points, arrow=panel.arrows)
            data = _plane(panel, hues, scale)
        case Numbers():
            shown["rows"] = list(panel.rows)
            data = _numbers(panel)
    return shown, {"kind": kind, **data}


def _legend(hues: Mapping[str, int], **kinds: Mapping[str, Any]) -> list[dict[str, Any]]:
    found = [
        {"name": name, "kind": kind, **style}
        for kind, several in kinds.items()
        for name, style in _styled(several, hues).items()
    ]
    return found if len(found) > 1 or (found and found[0]["kind"] != "line") else []


def _lines(panel: Lines, hues: Mapping[str, int]) -> dict[str, Any]:
    logs = {axis: axis in panel.log for axis in "xy"}

    def coded(several: Mapping[str, Any]) -> list[dict[str, Any]]:
        styles = _styled(several, hues)
        return [{**styles[name], **encode(values, 16, log=logs["y"], name=name)} for name, values in several.items()]

    return {
        "x": encode(panel.x, 16, log=logs["x"], name="x"),
        "series": coded(panel.series),
        "bars": coded(panel.bars),
        "mark": None if panel.mark is None else encode(panel.mark, 16, log=logs["x"], name="mark"),
        "labels": [panel.xlabel, panel.ylabel],
        "logs": [logs["x"], logs["y"]],
        "range": _range(panel, logs["y"]),
    }


def _range(panel: Lines, log: bool) -> list[float]:
    """What the y axis spans, its logarithms if `log`: every frame, with a little room; bars stand on 0."""
    several = [np.ravel(np.asarray(values, dtype=float)) for values in (*panel.series.values(), *panel.bars.values())]
    stands = bool(panel.bars) and not log
    values = np.concatenate([*several, [0.0] * stands])
    scaled = math.log10 if log else float
    low, high = scaled(values.min()), scaled(values.max())
    room = 0.04 * ((high - low) or 1.0)
    low -= 0.0 if stands and low == 0 else room
    return [low if panel.low is None else scaled(panel.low), high + room if panel.high is None else scaled(panel.high)]


def _plane(panel: Plane, hues: Mapping[str, int], scale: float) -> dict[str, Any]:
    data: dict[str, Any] = {"extent": list(panel.extent), "density": None, "points": [], "arrows": [], "at": None}
    if panel.density is not None:
        density = np.asarray(panel.density, dtype=float)
        peak = density.max((-2, -1), keepdims=True)
        data["density"] = encode(density / np.where(peak > 0, peak, 1.0), 8, 0.0, 1.0, name="density")
    for name, values in panel.points.items():
        data["points"].append({"hue": hues[name], **encode(values, 16, name=name)})
    if panel.arrows:
        data["scale"], data["at"] = scale, encode(panel.at, 16, name="at")
        for name, values in panel.arrows.items():
            data["arrows"].append({"hue": hues[name], **encode(values, 16, name=name)})
    return data


def _numbers(panel: Numbers) -> dict[str, Any]:
    """The text of every frame: row by row, and frame by frame within."""
    rows = []
    for values in panel.rows.values():
        array = np.asarray(values)
        places = product(*(range(n) for n in array.shape))
        rows.append({"shape": list(array.shape), "text": [said(array[place], panel.digits) for place in places]})
    return {"rows": rows}
