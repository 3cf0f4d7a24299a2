"""What the documentation says holds: its code runs, its commands exist, equations and files that it names are there."""

import doctest
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import scoresde
from scoresde import PREDICTIONS
from scoresde.cli import COMMANDS, main
from tests.docs import DOCS, layout

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
SHORTER = (("steps=1000", "steps=20"), ("(500, 2)", "(50, 2)"), ("500)", "50)"), ("[:100]", "[:10]"))
"""What trainings and samples on the first pages are for the test."""


def with_code():
    for path in PAGES:
        if any(kind in ("python", "pycon") for kind, _ in FENCE.findall(path.read_text())):
            heavy = path.stem in ("extending", "trust", "tour", "README", "index")
            yield pytest.param(path, marks=pytest.mark.slow if heavy else (), id=path.stem)


@pytest.mark.parametrize("path", list(with_code()))
def test_code_runs(path, capsys, tmp_path, monkeypatch):
    """From top to bottom, in one namespace; what a session of the interpreter prints is what stands there."""
    monkeypatch.chdir(tmp_path)
    known, space = dict(PREDICTIONS), {"__name__": "__page__"}
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    try:
        for kind, block in FENCE.findall(path.read_text()):
            if kind == "python":
                for long, short in SHORTER if path.stem in ("README", "index") else ():
                    block = block.replace(long, short)
                exec(compile(block, str(path), "exec"), space)
            elif kind == "pycon":
                example = doctest.DocTestParser().get_doctest(block, {}, path.stem, str(path), 0)
                example.globs = space
                runner.run(example, clear_globs=False)
    finally:
        for name in set(PREDICTIONS) - set(known):
            del PREDICTIONS[name]
    assert not runner.failures, capsys.readouterr().out


def commands():
    """(page, words) of every command that a page shows."""
    for path in PAGES:
        text = path.read_text().replace("\\\n", " ")
        for line in re.findall(r"^ {4}((?:python|scoresde|torchrun|OMP_NUM_THREADS=1 python) .*)$", text, re.M):
            if "   " not in line.partition("#")[0].strip():  # a row of a table
                yield path, shlex.split(line, comments=True)


def test_commands_name_what_exists(capsys):
    """Scripts are there and know their options; so does scoresde."""
    seen = 0
    for path, words in commands():
        options = {word.partition("=")[0] for word in words if word.startswith("--")}
        if script := next((word for word in words if word.endswith(".py")), None):
            source = (ROOT / script).read_text()
            source += "".join(p.read_text() for p in (ROOT / "experiments").glob("lesson.py"))
            known = set(re.findall(r"\"(--[\w-]+)\"", source))
        elif "scoresde" in words:
            name = words[words.index("scoresde") + 1]
            assert name in COMMANDS, (path, words)
            assert main([name, "--help"]) == 0
            known = {*re.findall(r"--[\w.-]+", capsys.readouterr().out), "--nproc_per_node", "--"}
        else:
            continue
        assert options <= known, (path, words, options - known)
        seen += 1
    assert seen > 30


def test_links_lead_somewhere():
    for path in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text()):
            if not link.startswith(("http", "api/", "mailto")):
                assert (path.parent / link).exists(), (path, link)


def test_files_that_pages_name_exist():
    seen = 0
    for path in PAGES:
        for name in re.findall(r"`((?:src|tests|experiments|docs)/[\w/.*]+\.\w+)(?:::\w+)?`", path.read_text()):
            assert "NAME" in name or list(ROOT.glob(name)), (path, name)
            seen += 1
        assert not re.search(r"^(?:TABLE|TODO)\b", path.read_text(), re.M), path
    assert seen > 10


def test_the_layout_is_the_trees():
    assert (DOCS / "layout.md").read_text() == layout.page(), "write: python docs/layout.py > docs/layout.md"
    named = {name for _, names in (*layout.LAYERS, layout.LEAVES) for name in names}
    there = {path.stem for path in layout.PACKAGE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()}
    assert named == there


def test_cited_equations_exist():
    theory = (DOCS / "theory.md").read_text()
    numbered = {int(n) for n in re.findall(r" \((\d+)\)$", theory, re.M)}
    assert numbered == set(range(1, max(numbered) + 1))
    for path in Path(scoresde.__file__).parent.rglob("*.py"):
        for first, last in re.findall(r"docs/theory, eq\. (\d+)(?:-(\d+))?", path.read_text()):
            assert set(range(int(first), int(last or first) + 1)) <= numbered, path


@pytest.mark.slow
def test_the_documentation_builds_without_a_warning(tmp_path):
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", str(DOCS), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "api" / "samplers.html").exists()
