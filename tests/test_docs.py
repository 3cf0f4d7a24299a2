"""The README's code runs, and equations that docstrings cite exist."""

import re
from pathlib import Path

import scoresde
from scoresde import PREDICTIONS

ROOT = Path(__file__).parent.parent


def test_the_readmes_code_runs(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    known, space = dict(PREDICTIONS), {}
    try:
        for block in re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S):
            exec(block.replace("steps=1000", "steps=20").replace("(500, 2)", "(50, 2)").replace("500)", "50)"), space)
        assert {"x0 minus noise"} == set(PREDICTIONS) - set(known)
    finally:
        PREDICTIONS.pop("x0 minus noise", None)


def test_cited_equations_exist():
    theory = (ROOT / "docs" / "theory.md").read_text()
    numbered = {int(n) for n in re.findall(r" \((\d+)\)$", theory, re.M)}
    assert numbered == set(range(1, max(numbered) + 1))
    for path in Path(scoresde.__file__).parent.rglob("*.py"):
        for first, last in re.findall(r"docs/theory, eq\. (\d+)(?:-(\d+))?", path.read_text()):
            assert set(range(int(first), int(last or first) + 1)) <= numbered, path
