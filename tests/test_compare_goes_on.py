"""scoresde compare goes on where it was stopped: no cell is done again, and none kept that would now be another."""

import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass

import pytest

from scoresde import VP
from scoresde.cli import main
from scoresde.compare import cell, compare
from scoresde.samplers import DDIM, DDPM, Adams, Sampler
from tests.comparisons import MINE, SMALL, on_moons, on_target


def test_what_is_there_is_not_done_again(tmp_path, monkeypatch):
    first = on_target(tmp_path)
    done = []
    original = cell.run
    monkeypatch.setattr(cell, "run", lambda *a: done.append(a[1:3]) or original(*a))
    again = on_target(tmp_path)
    assert not done and again == first
    wider = on_target(tmp_path, steps=[4, 8, 6])
    assert done == [(Adams(), 6), (DDPM(), 6)] and wider[0] == first[0]
    on_target(tmp_path, seed=1, samplers=[Adams()], steps=[4])  # other noise is another cell
    assert len(done) == 3


def test_a_model_trained_further_is_measured_anew(tmp_path, monkeypatch):
    options = {"processes": [VP()], "samplers": [Adams()], "steps": [3], "bits": 0}
    first = on_moons(tmp_path, **options)
    second = on_moons(tmp_path, train_steps=16, **options)
    assert first[0].quality != second[0].quality and len(list((tmp_path / "cells").iterdir())) == 2


def test_a_cell_that_is_no_cell_is_named(tmp_path):
    on_target(tmp_path)
    path = next((tmp_path / "cells").glob("*.safetensors"))
    path.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        on_target(tmp_path)


def test_a_stopped_comparison_ends_as_one_left_alone(tmp_path, monkeypatch):
    """Stopped in the middle of its cells, it ends with the same metrics to the last bit, no cell done twice."""
    on_moons(tmp_path / "alone")
    done, original = [], cell.run

    def stopping(*arguments):
        if len(done) == 3:
            raise KeyboardInterrupt
        done.append(arguments[1:3])
        return original(*arguments)

    monkeypatch.setattr(cell, "run", stopping)
    with pytest.raises(KeyboardInterrupt):
        on_moons(tmp_path / "stopped")
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "stopped" / "cells").iterdir()}
    monkeypatch.setattr(cell, "run", original)
    on_moons(tmp_path / "stopped")
    assert {path: path.stat().st_mtime_ns for path in kept} == kept and len(kept) >= 3
    alone, stopped = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("alone", "stopped"))
    assert alone == stopped and len(alone.splitlines()) == 8


def test_models_of_a_comparison_are_runs_that_load(tmp_path):
    rows = on_moons(tmp_path / "one")
    runs = sorted((tmp_path / "one" / "models").iterdir())
    assert [path.name for path in runs] == ["RectifiedFlow-v", "VP-v"]
    assert main(["sample", str(runs[0]), "--num", "3", "--steps", "3", "--quiet"]) == 0
    assert main(["likelihood", str(runs[1]), "--num", "3", "--quiet"]) == 0
    again = compare(tmp_path / "two", models=[runs[1]], samplers=[Adams(), DDIM()], steps=[3, 6], **SMALL)
    assert [row.quality for row in again] == [row.quality for row in rows[:4]]
    shutil.copytree(runs[1], tmp_path / "copy")
    both = compare(tmp_path / "three", models=[runs[1], tmp_path / "copy"], samplers=[Adams()], steps=[3], **SMALL)
    assert [row.process for row in both] == [f"VP() {runs[1]}", f"VP() {tmp_path / 'copy'}"]


def test_edited_code_is_measured_anew(tmp_path, monkeypatch):
    """A sampler of one's own is told by its code, in any process alike; so is a metric."""

    def errors(factor):
        @dataclass(frozen=True)
        class Mine(Sampler):
            size: float = 1.0

            def step(self, model, x, t, s, memory, randn):
                return x + factor * (s - t) * model.predict("velocity", x, max(t, 1e-3)), memory

        return on_target(tmp_path, samplers=[Mine()], steps=[8])[0].quality["flow_error"].value

    assert errors(1.0) == errors(1.0) != errors(1.1)
    code = "import sys; sys.path.append('.'); import mine_code; from scoresde._fingerprint import fingerprint; "
    code += "print(fingerprint(mine_code.Walk(), mine_code.Straight()))"
    (tmp_path / "mine_code.py").write_text(MINE)
    found = [subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path) for _ in range(2)]
    assert found[0] == found[1]
    described = MINE.replace("memory, randn):\n", 'memory, randn):\n        "One step."\n')
    assert described != MINE
    (tmp_path / "mine_code.py").write_text(described)
    assert subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path) == found[0]
    (tmp_path / "mine_code.py").write_text(MINE.replace("max(t, 1e-3)", "max(t, 1e-4)"))
    assert subprocess.check_output([sys.executable, "-c", code], cwd=tmp_path) != found[0]


@pytest.mark.slow
def test_config_yaml_runs_it_again(tmp_path):
    """To the same metrics, byte for byte."""
    words = ["compare", "--data", "moons", "--processes", "VP", "VE(sigma_max=20)", "--predictions", "v", "--samplers"]
    words += ["Adams", "DPMSolverPP(order=3)", "--steps", "3", "6", "--num", "60", "--bits", "5", "--train_steps", "20"]
    assert main([*words, "--draws", "20", "--quiet", "--out", str(tmp_path / "one")]) == 0
    config = (tmp_path / "one" / "config.yaml").read_text().replace(str(tmp_path / "one"), str(tmp_path / "two"))
    (tmp_path / "config.yaml").write_text(config)
    assert main(["compare", "--config", str(tmp_path / "config.yaml")]) == 0
    one, two = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two and len(one.splitlines()) == 8


@pytest.mark.slow
def test_killed_by_sigkill_half_way(tmp_path):
    """In a process of its own, killed among its cells, it goes on: what is there stays as it is."""
    words = [sys.executable, "-m", "scoresde", "compare", "--target", "gmm", "--num", "200", "--bits", "0"]
    words += ["--draws", "50", "--quiet", "--out", str(tmp_path / "run")]
    cells, process = tmp_path / "run" / "cells", subprocess.Popen(words, stdout=subprocess.DEVNULL)
    while len(list(cells.glob("[!.]*.safetensors")) if cells.exists() else []) < 20:
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in cells.glob("[!.]*.safetensors")}
    assert not (tmp_path / "run" / "report.html").exists() and 20 <= len(kept) < 108
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 108
    assert not list(cells.glob(".*.draft"))
