"""scoresde train and scoresde sample: their folder, going on, and what they say when something is wrong."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from scoresde import VP, load
from scoresde.cli import main
from scoresde.training import resume

ROOT = Path(__file__).parents[1]


def train(out, *words, steps=20):
    words = [*map(str, words)]
    given = {"--data": "moons", "--net": "MLP", "--net.width": 8, "--every": 10, "--device": "cpu", "--quiet": "true"}
    rest = [str(word) for name, value in given.items() if name not in words for word in (name, value)]
    if "--net" in words and "--net.width" in rest:
        i = rest.index("--net.width")
        del rest[i : i + 2]
    return main(["train", "--out", str(out), *words, *rest, "--steps", str(steps)])


def test_a_run_is_a_folder_that_goes_on(tmp_path, capsys):
    assert train(tmp_path / "run", steps=10) == 0
    first = load(tmp_path / "run")
    assert first.process == VP() and first.net.net.arguments["width"] == 8
    assert train(tmp_path / "run", steps=10) == 0  # nothing left to do
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [10] and lines[0]["loss"] > 0
    assert "torch==" in (tmp_path / "run" / "environment.txt").read_text()
    assert main(["sample", str(tmp_path / "run"), "--num", "7", "--shard", "4", "--steps", "5", "--quiet", "true"]) == 0
    files = sorted((tmp_path / "run" / "samples").iterdir())
    assert [load_file(path)["samples"].shape for path in files] == [(4, 2), (3, 2)]
    assert "2 files in" in capsys.readouterr().out


def test_config_yaml_runs_it_again(tmp_path):
    """To the same bits: the options, the seed, and nothing else."""
    assert (
        train(tmp_path / "one", "--process", "VE", "--process.sigma_max", 20, "--weighting", "edm", "--lr", 0.003) == 0
    )
    config = (tmp_path / "one" / "config.yaml").read_text().replace(str(tmp_path / "one"), str(tmp_path / "two"))
    (tmp_path / "config.yaml").write_text(config)
    assert main(["train", "--config", str(tmp_path / "config.yaml")]) == 0
    one, two = (load(tmp_path / name) for name in ("one", "two"))
    assert one.process == two.process and one.process.sigma_max == 20
    mine, theirs = one.net.state_dict(), two.net.state_dict()
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)


def test_labels_and_widths_of_averages(tmp_path):
    words = ["--data", "digits", "--conditional", "true", "--posthoc", "true", "--net", "UNet", "--net.width", 8]
    assert train(tmp_path / "run", *words, "--batch_size", 8, steps=4) == 0
    words = ["sample", str(tmp_path / "run"), "--num", "3", "--label", "7", "--std", "0.1", "--steps", "3"]
    assert main([*words, "--quiet", "true", "--sampler", "DPMSolverPP", "--sampler.order", "2"]) == 0
    samples = load_file(tmp_path / "run" / "samples-label7" / "samples-00000.safetensors")["samples"]
    assert samples.shape == (3, 1, 8, 8) and samples.dtype == torch.uint8 and samples.max() <= 16


MINE = """
import torch
from scoresde import Process

class Straight(Process):
    def __init__(self, last: float = 1.0):
        self.last = last
    def alpha(self, t):
        return 1 - t * self.last
    def sigma(self, t):
        return t

class Net(torch.nn.Module):
    def __init__(self, shape, width: int = 4):
        super().__init__()
        self.layer = torch.nn.Linear(shape[0], shape[0])
    def forward(self, x, t):
        return self.layer(x)
"""


def test_parts_of_your_own_by_their_paths(tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    words = ["--process", "mine.Straight", "--process.last", "0.9", "--net", "mine.Net", "--net.width", "5"]
    assert train(tmp_path / "run", *words) == 0
    import mine

    again = load(
        tmp_path / "run", process=mine.Straight(0.9), net=__import__("scoresde").networks.Scaled(mine.Net((2,)), VP())
    )
    assert again.process.last == 0.9


def bad_picture(folder):
    (folder / "a").mkdir(parents=True)
    Image.new("L", (4, 4)).save(folder / "a" / "one.png")
    (folder / "a" / "two.png").write_bytes((folder / "a" / "one.png").read_bytes()[:40])
    return folder


def bad_table(folder):
    folder.mkdir()
    (folder / "t.csv").write_text("a,b\n1,2\n3,nan\n5,6\n")
    return folder / "t.csv"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--data", "digts"], "Did you mean 'digits'?"),
        (["--data", "nowhere/table.csv"], "there is no file or folder 'nowhere/table.csv'"),
        (["--data", bad_picture], "two.png"),
        (["--data", bad_table], "line 3: column 'b' is nan"),
        (["--device", "cuda:99"], "device 'cuda:99' cannot be used"),
        (["--conditional", "true"], "have no labels"),
        (["--prediction", "eps"], "unknown prediction 'eps'"),
        (["--times", "unform"], "Did you mean 'uniform'?"),
        (["--batch_size", "2", "--accumulate", "3"], "batch_size must be at least"),
        (["--lr", "-1"], "lr must be positive"),
        (["--out", "/dev/null/run"], "cannot write"),
    ],
    ids=lambda value: value[0] + "-" + getattr(value[1], "__name__", value[1]) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line_and_exit_2(words, message, tmp_path, capsys):
    words = [word(tmp_path / "data") if callable(word) else word for word in words]
    assert train(tmp_path / "run", *words) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 1 and message in shown[0] and shown[0].startswith("scoresde: ")
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.draft"))


@pytest.mark.slow
def test_ctrl_c_leaves_a_run_that_goes_on(tmp_path):
    words = ["train", "--out", str(tmp_path), "--data", "moons", "--every", "5", "--steps", "100000", "--device", "cpu"]
    process = subprocess.Popen([sys.executable, "-m", "scoresde", *words], stderr=subprocess.PIPE, text=True, cwd=ROOT)
    for _ in range(600):
        if resume.steps_in(tmp_path / "checkpoints"):
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    shown = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "the same command goes on from the last checkpoint" in shown
    assert "Traceback" not in shown
    before = int(resume.newest(tmp_path).name[5:])
    assert before >= 5 and os.listdir(tmp_path / "checkpoints")
    assert load(tmp_path).process == VP()
