"""Lessons run into one folder, and the page over it."""

import json
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from scoresde import cli
from scoresde.explore import SCENES, lessons
from scoresde.figures import LESSONS, page
from tests.browser import launched, opened, overflow, unseen

ROOT = Path(__file__).parents[1]
DOC = '''"""The square of {name}: <b>four</b>.

Two `times <two>` is four,
to every digit.

    python experiments/{name}.py

Reference: Euclid (300 BC).
"""
'''
GOOD = (
    DOC
    + """
import argparse, pathlib
from PIL import Image
parser = argparse.ArgumentParser()
for word in ("--out", "--device"):
    parser.add_argument(word, default="cpu")
parser.add_argument("--quick", action="store_true")
options = parser.parse_args()
out = pathlib.Path(options.out)
out.mkdir(parents=True, exist_ok=True)
for ending, shade in (("", 255), ("-dark", 20)):
    Image.new("L", (90, 30), shade).save(out / ("{name}" + ending + ".png"))
(out / "{name}.txt").write_text(f"2 · 2 = 4 & <i>{{options.quick}} {{options.device}}\\n", encoding="utf-8")
print("quadrat²")
"""
)
FAILS = DOC + "def f(): raise ValueError('no <b>square</b>')\nf()\n"
SILENT = DOC + "print('done')\n"
KILLED = DOC + "import os; os.kill(os.getpid(), 9)\n"
SLOW = DOC + "import time; print('on', flush=True); time.sleep(60)\n"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A folder of lessons: all good, but three."""
    folder = tmp_path / "experiments"
    folder.mkdir()
    bad = {"walk_back": FAILS, "langevin_mixing": SILENT, "score_field": KILLED}
    for name in LESSONS:
        (folder / f"{name}.py").write_text(bad.get(name, GOOD).format(name=name), encoding="utf-8")
    monkeypatch.setattr(lessons, "folder", lambda: folder)
    monkeypatch.chdir(tmp_path)
    return folder


def figures(*words):
    return cli.main(["figures", "--out", "out", *words])


@pytest.mark.slow
def test_a_lesson_that_fails_does_not_stop_the_others(home, capsys):
    (home / "flow_vs_diffusion.py").unlink()
    assert figures("--quick") == 1
    out, err = capsys.readouterr()
    lines = out.splitlines()
    assert [line.split()[0] for line in lines[:10]] == list(LESSONS) and "see out/index.html" in lines[10]
    assert "0 s  The square of forward_process: <b>four</b>." in lines[0]
    assert "FAILED: ended by signal 9" in lines[1] and "FAILED: ValueError: no <b>square</b>" in lines[2]
    assert "ended well, but wrote no langevin_mixing.png" in lines[8] and "No such file" in lines[9]
    assert err == "scoresde figures: 4 failed: score_field, walk_back, langevin_mixing, flow_vs_diffusion\n"
    html = Path("out/index.html").read_text(encoding="utf-8")
    assert html.count("<section") == 10 and html.count("It failed: ") == 4 and html.count("<picture>") == 6
    assert "ValueError: no &lt;b&gt;square&lt;/b&gt;" in html


def test_some_of_them_and_what_is_there_stays(home, capsys, monkeypatch):
    assert figures("--only", "forward_process") == 0 and capsys.readouterr().err == ""
    assert figures("--only", "mnist_exercise", "walk_back", "mnist_exercise", "--device", "meta") == 1
    out = capsys.readouterr().out
    assert out.count("mnist_exercise") == 2, "once, and in its headline"
    found = json.loads(Path("out/index.json").read_text())
    assert list(found) == ["forward_process", "walk_back", "mnist_exercise"], "in the lessons' order"
    assert found["mnist_exercise"]["command"] == "python experiments/mnist_exercise.py --out out --device meta"
    html = Path("out/index.html").read_text(encoding="utf-8")
    assert [html.count(f'<section id="{name}">') for name in ("forward_process", "walk_back", "mnist_exercise")] == [
        1
    ] * 3
    assert "2 · 2 = 4 &amp; &lt;i&gt;False meta" in html and "2 · 2 = 4 &amp; &lt;i&gt;False cpu" in html
    Path("far").mkdir()
    monkeypatch.chdir("far")
    (home / "walk_back.py").write_text(GOOD.format(name="walk_back"), encoding="utf-8")
    assert cli.main(["figures", "--out", "../out", "--only", "walk_back"]) == 0
    monkeypatch.chdir("..")
    assert "scoresde figures --only walk_back --out ../out" in Path("out/index.html").read_text(encoding="utf-8")
    assert figures("--only", "walk_back") == 0 and "It failed" not in Path("out/index.html").read_text(encoding="utf-8")


def test_wrong_words_are_one_line(home, capsys):
    assert figures("--only", "walk_bak") == 2 and "'walk_bak'" in capsys.readouterr().err
    Path("out").write_text("a file")
    assert figures("--only", "forward_process") == 2
    err = capsys.readouterr().err
    assert err.startswith("scoresde figures: [Errno 17] File exists: 'out'") and len(err.splitlines()) == 1


def test_what_a_docstring_says(tmp_path):
    path = tmp_path / "x.py"
    path.write_text(DOC.format(name="x"))
    assert page.said(path) == (
        "The square of x: <b>four</b>.", ["Two `times <two>` is four, to every digit."], ["Reference: Euclid (300 BC)."]
    )  # fmt: skip
    path.write_text("x = 1\n")
    assert page.said(path) == ("x", [], []) and page.headline(tmp_path / "none.py") == "none"


@pytest.mark.slow
def test_ctrl_c_leaves_what_was_done(home, tmp_path):
    """From Python, so that the signal is not ignored, as a shell does to what it starts in the background."""
    (home / "score_field.py").write_text(SLOW.format(name="score_field"), encoding="utf-8")
    code = (
        "import pathlib, sys; from scoresde.explore import lessons; from scoresde import cli; "
        "lessons.folder = lambda: pathlib.Path('experiments'); sys.exit(cli.main(sys.argv[1:]))"
    )
    words = ["figures", "--out", "out", "--only", "forward_process", "score_field", "mnist_exercise"]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    assert process.stdout is not None and process.stdout.readline().startswith("forward_process")
    time.sleep(0.3)  # now in the second
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 130 and err == "interrupted; index.html shows the lessons that were done\n" and not out
    html = (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
    assert html.count("<section") == 1 and sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "forward_process-dark.png", "forward_process.png", "forward_process.txt", "index.html", "index.json",
    ]  # fmt: skip


@pytest.mark.slow
def test_the_page_in_a_browser(home):
    assert figures("--only", "forward_process", "walk_back") == 1
    with launched() as browser:
        for width in (1280, 390):
            for dark in (False, True):
                with opened(browser, Path("out/index.html"), width, dark) as (visit, faults):
                    assert faults == [] and overflow(visit) == 0 and unseen(visit) == []
                    source = visit.evaluate("document.images[0].currentSrc")
                    assert source.endswith("forward_process-dark.png" if dark else "forward_process.png")
                    assert visit.locator("h2").first.inner_text() == "The square of forward_process: <b>four</b>."
                    assert visit.locator("p code").first.inner_text() == "times <two>"
                    assert visit.locator("pre").inner_text() == "2 · 2 = 4 & <i>False cpu"
                    assert (
                        "python experiments/forward_process.py --out out" in visit.locator("code").nth(1).inner_text()
                    )
        Path("out/forward_process.png").unlink()
        with opened(browser, Path("out/index.html")) as (visit, faults):
            assert unseen(visit) == ["The square of forward_process: <b>four</b>."], "a picture that is gone is seen"


def test_the_wheel_takes_the_lessons_along():
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    names = (*LESSONS, "lesson", "line")
    assert wheel["force-include"] == {f"experiments/{name}.py": f"scoresde/lessons/{name}.py" for name in names}
    assert set(SCENES) <= set(LESSONS)
    missing = [name for name in names if not (ROOT / "experiments" / f"{name}.py").exists()]
    assert not missing, "a wheel cannot be built without them"
