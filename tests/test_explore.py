"""Scenes, their codes, and where the lessons are."""

import json
import math
import sys

import numpy as np
import pytest
import torch

from scoresde import cli
from scoresde.explore import Control, Lines, Numbers, Picture, Plane, Scene, lessons, page, write
from scoresde.explore.codes import decode, encode, said

TIMES = np.linspace(0.0, 1.0, 6)
KINDS = ["linear", "square"]


def scene(title="A made-up scene"):
    """Every kind of panel, by a choice of two (i) and a slider of six (k), of functions that are known."""
    power, t = np.array([1.0, 2.0])[:, None], TIMES[None]
    level = t**power
    x = np.linspace(0.0, 1.0, 41)
    rise = np.linspace(-1.0, 1.0, 48).reshape(6, 8)
    y, z = np.meshgrid(np.linspace(-1, 1, 21), np.linspace(-2, 2, 31))
    bump = np.exp(-((y[None] - TIMES[:, None, None]) ** 2 + z**2) / 0.1) * (1 + 99 * TIMES[:, None, None])
    at = np.stack(np.meshgrid([-0.5, 0.0, 0.5], [-1.0, 0.0, 1.0]), -1).reshape(-1, 2)
    return Scene(
        title,
        "The level is t, or its square.",
        [Control("law", KINDS, "choice"), Control("t", [f"{t:.1f}" for t in TIMES], start=2)],
        [
            Picture("picture", np.clip(rise + 2 * level[..., None, None] - 1, -3, 3)),
            Lines(
                "level", x, {"level": level[..., None] + 0 * x, "x": x[None, None]}, "x", "level", mark=t,
                bars={"bars": (1 - level)[..., None] * x}, low=0.0, high=1.0,
            ),
            Lines("decades", x + 0.01, {"far": (10.0 ** (-8 * level))[..., None] * (x + 0.01)}, log="xy"),
            Plane(
                "plane", (-1.0, 1.0, -2.0, 2.0), bump[None],
                {"points": np.random.default_rng(0).normal(size=(2, 6, 50, 2))},
                {"there": at[None, None] * level[..., None, None]}, at,
            ),
            Numbers({"level": level, "k": np.arange(6)[None], "nothing": np.full((1, 1), math.nan)}, digits=4),
        ],
    )  # fmt: skip


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("log", [False, True])
def test_codes_give_back_what_they_were(bits, log):
    """Half a step of the range, in the base-10 logarithm for log axes; the last digits of a float beyond that."""
    values = np.exp(np.random.default_rng(bits).normal(size=(3, 1, 40)) * 3)
    record = encode(values, bits, log=log)
    known, back = (np.log10(a) if log else a for a in (values, decode(record)))
    step = (known.max() - known.min()) / (2**bits - 1)
    worst = np.abs(back - known).max()
    assert 0.4 * step < worst <= step / 2 * (1 + 1e-6), "and no finer than said"
    assert back.flat[known.argmin()] == pytest.approx(known.min()) and back.flat[known.argmax()] == pytest.approx(
        known.max()
    )


def test_codes_at_the_edges():
    assert (decode(encode(np.full(3, 7.5), 16)) == 7.5).all()
    assert decode(encode([-9.0, 0.0, 9.0], 8, -1.0, 1.0)) == pytest.approx([-1, 0, 1], abs=1.0001 / 255)
    for wrong in (math.nan, math.inf):
        with pytest.raises(ValueError, match=r"curve must be finite, got .* at \(1,\)"):
            encode([0.0, wrong], 16, name="curve")
    with pytest.raises(ValueError, match="curve must be above 0 on a log axis"):
        encode([0.0, 1.0], 16, log=True, name="curve")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.123456, "0.123"), (-1.0, "−1.00"), (999.96, "1000"), (12345.6, "12346"), (0.0, "0"), (7, "7"),
        (np.int64(-12), "−12"), (1.234e-6, "1.23 · 10⁻⁶"), (2e7, "2.00 · 10⁷"), (math.nan, "–"), (-math.inf, "−∞"),
        (0.00012344, "0.000123"), (9.999, "10.0"),
    ],
)  # fmt: skip
def test_numbers_in_text(value, text):
    assert said(value, 3) == text


def shown(panel):
    """A panel's data as the script gets them."""
    return page._panel(panel, page._hues([panel]), page._scale(panel))[1]


def test_every_frame_can_be_read_back():
    picture, lines, decades, plane, numbers = (shown(panel) for panel in scene().panels)
    known = scene().panels
    assert np.abs(decode(picture["frames"]) - np.clip(known[0].frames, -1, 1)).max() <= 1 / 255 * 1.0001
    for name, one in zip(("level", "x"), lines["series"]):
        values = known[1].series[name]
        assert one["shape"] == list(values.shape)
        assert np.abs(decode(one) - values).max() <= 0.5001 * (values.max() - values.min()) / 65535
    share = decode(decades["series"][0]) / known[2].series["far"] - 1
    assert np.abs(share).max() <= 10 ** (0.5001 * (8 + math.log10(101)) / 65535) - 1, "to a share, over ten decades"
    assert decades["range"][0] < -10 + 1e-3 < decades["range"][1] and lines["range"] == [0.0, 1.0]
    density = known[3].density / known[3].density.max((-2, -1), keepdims=True)
    assert np.abs(decode(plane["density"]) - density).max() <= 0.5001 / 255, "of its own peak, whatever that is"
    points = known[3].points["points"]
    assert np.abs(decode(plane["points"][0]) - points).max() <= 0.5001 * np.ptp(points) / 65535
    assert plane["scale"] * math.hypot(0.5, 1.0) == pytest.approx(1.5 * math.sqrt(8 / 9)), "1.5 places"
    assert numbers["rows"][0] == {"shape": [2, 6], "text": [said(v, 4) for v in known[4].rows["level"].ravel()]}
    assert numbers["rows"][2]["text"] == ["–"]


def test_a_name_has_one_colour_in_a_scene():
    curves, zero = {"a": np.zeros((1, 3)), "b": np.zeros((1, 3))}, np.zeros((1, 1, 2))
    bars = {"d": np.zeros((1, 3))}
    panels = [Lines("l", [1, 2, 3], curves, bars=bars), Plane("p", (0, 1, 0, 1), None, {"c": zero, "b": zero})]
    assert page._hues(panels) == {"d": 0, "a": 1, "b": 2, "c": 3}
    first, second = page.section("s", Scene("s", "", [Control("n", ["1"])], panels))["panels"]
    assert [(entry["name"], entry["kind"], entry["hue"], entry["dash"]) for entry in first["legend"]] == [
        ("d", "bar", 0, 0), ("a", "line", 1, 0), ("b", "line", 2, 1)
    ]  # fmt: skip
    assert [(entry["name"], entry["kind"], entry["hue"]) for entry in second["legend"]] == [
        ("c", "point", 3),
        ("b", "point", 2),
    ]


def test_arrows_have_one_scale_in_a_scene():
    at = [[0.0, 0.0], [1.0, 1.0]]
    planes = [Plane("p", (0, 2, 0, 2), arrows={"a": np.array([[[n, 0.0]] * 2] * 2)}, at=at) for n in (1.0, 4.0)]
    planes[0].arrows["a"][1] *= 2
    drawn = json.loads(page.section("s", Scene("s", "", [Control("n", ["1", "2"])], planes))["data"])["panels"]
    assert [plane["scale"] for plane in drawn] == [1.5 * math.sqrt(2) / 4] * 2, "of the longest in any"


def test_tensors_are_arrays():
    x = torch.linspace(0, 1, 5)
    record = shown(Lines("l", x, {"s": torch.ones(1, 1, 5) * x}))
    assert decode(record["series"][0])[0, 0] == pytest.approx(x.numpy(), abs=1 / 65535)


LAW, T = Control("law", ["a", "b"], "choice"), Control("t", ["0", "1", "2"])
FRAMES = np.zeros((2, 3, 4, 4))


def one(controls, panel):
    return Scene("s", "", controls, [panel])


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: Control("t", []), "'t': values must be text"),
        (lambda: Control("t", [0.0, 1.0]), "'t': values must be text"),
        (lambda: Control("t", ["0"], "knob"), "unknown kind 'knob'; known: slider, choice"),
        (lambda: Control("t", ["0"], start=1), r"start must be in 0\.\.0, got 1"),
        (lambda: one([LAW, T], Picture("p", FRAMES[:, :2])), r"shape \(2 or 1, 3 or 1, any, any\), got"),
        (lambda: one([LAW, T], Picture("p", FRAMES[0])), "'s', Picture 'p', frames must have the shape"),
        (lambda: one([LAW, T], Picture("p", FRAMES + math.nan)), "frames must be finite, got nan"),
        (lambda: one([LAW, T], Picture("p", FRAMES[:, :1])), "the control 't' changes nothing"),
        (lambda: one([T], Lines("l", [1, 2], {"c": np.zeros((3, 3))})), r"c must have the shape \(3 or 1, 2\)"),
        (lambda: one([T], Lines("l", [1, 2], {"c": np.zeros((3, 2))}, log="y")), "must be above 0, in y"),
        (lambda: one([T], Lines("l", [2, 1], {"c": np.zeros((3, 2))})), "x must not fall"),
        (lambda: one([T], Numbers({"n": np.zeros((3, 1))})), r"shape \(3 or 1\), got \(3, 1\)"),
        (lambda: one([T], Plane("p", (0, 1, 0, 1), arrows={"a": np.zeros((3, 4, 2))}, at=[[0, 0]])), r"1, 2\)"),
        (lambda: write("p.html", {}), "at least one Scene"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(build, says):
    with pytest.raises(ValueError, match=says):
        build()


def made_up(folder, title="A lesson of one number"):
    """The five lessons' names in a folder, each with a scene."""
    (folder / "lesson.py").write_text("SHARED = 3\n")
    for name in page.SCENES:
        (folder / f"{name}.py").write_text(f'''"""{title}: {name}."""
from __future__ import annotations
from dataclasses import dataclass
import lesson
import numpy as np
from scoresde.explore import Control, Numbers, Scene

@dataclass(frozen=True)
class Result:
    value: float

def measure(quick, device):
    assert device == "cpu"
    return Result(1.0 if quick else 2.0)

def scene(result):
    return Scene("{name}", __doc__, [Control("n", ["1", "2", "3"])],
                 [Numbers({{"n": lesson.SHARED * result.value * np.arange(1, 4)}})])
''')
    return folder


def test_the_command_writes_one_page(tmp_path, monkeypatch, capsys):
    home = made_up(tmp_path)
    monkeypatch.setattr(lessons, "folder", lambda: home)
    before, path = dict(sys.modules), list(sys.path)
    assert cli.main(["explore", "--out", str(tmp_path / "new" / "e.html"), "--quick"]) == 0
    told = capsys.readouterr().out
    html = (tmp_path / "new" / "e.html").read_text()
    assert all(name in told and f'<section id="{name}">' in html for name in page.SCENES)
    assert '["3.00","6.00","9.00"]' in html and "0.0 MB" in told
    new = set(sys.modules) - set(before)
    assert not new & {"lesson", *page.SCENES} and sys.path == path, "lessons leave nothing behind"


def test_lessons_are_those_of_the_folder_whatever_is_loaded(tmp_path, monkeypatch):
    home = made_up(tmp_path)
    monkeypatch.setattr(lessons, "folder", lambda: home)
    monkeypatch.setitem(sys.modules, "lesson", other := object())
    assert lessons.load("walk_back").lesson.SHARED == 3 and sys.modules["lesson"] is other
    (tmp_path / "walk_back.py").unlink()
    with pytest.raises(FileNotFoundError, match="there is no lesson 'walk_back' in"):
        lessons.load("walk_back")
    (tmp_path / "score_field.py").write_text("raise RuntimeError('broken')")
    with pytest.raises(RuntimeError, match="broken"):
        lessons.load("score_field")
    assert sys.modules["lesson"] is other and str(tmp_path) not in sys.path


def test_the_lessons_of_a_checkout_or_of_a_wheel(tmp_path, monkeypatch):
    assert (lessons.folder() / "lesson.py").exists()
    package = tmp_path / "src" / "scoresde"
    monkeypatch.setattr(lessons, "__file__", str(package / "explore" / "lessons.py"))
    with pytest.raises(FileNotFoundError, match=r"neither in .*lessons nor in .*experiments"):
        lessons.folder()
    for home in (tmp_path / "experiments", package / "lessons"):
        home.mkdir(parents=True)
        (home / "lesson.py").touch()
        assert lessons.folder() == home
