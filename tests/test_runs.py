"""scoresde train and scoresde sample: their folder, going on, and what they say when something is wrong."""

import json
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


def sample(run, *words):
    return main(["sample", str(run), "--device", "cpu", "--quiet", *map(str, words)])


def likelihood(run, *words):
    return main(["likelihood", str(run), "--device", "cpu", "--quiet", *map(str, words)])


def again(folder, config):
    """A command's words that run a config.yaml again, into `folder`."""
    return ["--config", str(config), "--out", str(folder)]


def test_a_run_is_a_folder_that_goes_on(tmp_path, capsys):
    run = tmp_path / "run"
    assert train(run, steps=10) == 0
    first = load(run)
    assert first.process == VP() and first.net.net.arguments["width"] == 8
    assert train(run, steps=10) == 0  # nothing left to do
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(1, 11)) and lines[0]["loss"] > 0
    assert "torch==" in (run / "environment.txt").read_text()
    assert sample(run, "--num", 7, "--shard", 4, "--steps", 5) == 0
    files = sorted((run / "samples").glob("*.safetensors"))
    assert [load_file(path)["samples"].shape for path in files] == [(4, 2), (3, 2)]
    assert {path.name for path in (run / "samples").iterdir()} >= {"config.yaml", "environment.txt", "samples.png"}
    assert f"7 in {run}/samples" in capsys.readouterr().out


def test_a_run_that_was_stopped_has_every_line_once(tmp_path):
    """metrics.jsonl, and TensorBoard's events, of a run in two parts are those of a whole one."""
    assert train(tmp_path / "one", steps=20) == 0
    assert train(tmp_path / "two", steps=20) == 0
    last = tmp_path / "two" / "checkpoints" / "step-000000020"
    last.rename(tmp_path / "gone")  # as if it had been killed after step 15
    assert train(tmp_path / "two", steps=20) == 0
    one, two = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = {}
    for name in ("one", "two"):
        events = accumulator.EventAccumulator(str(tmp_path / name / "tensorboard"), {"scalars": 0, "images": 0})
        events.Reload()
        found[name] = [(event.step, event.value) for event in events.Scalars("loss")]
        assert events.Images("samples")[-1].step == 20
    assert found["one"] == found["two"] and len(found["one"]) == 20


def test_config_yaml_runs_it_again(tmp_path):
    """To the same bits: weights, metrics, samples and likelihoods."""
    one, two = tmp_path / "one", tmp_path / "two"
    words = ["--process", "VE", "--process.sigma_max", 20, "--weighting", "edm", "--lr", 0.003]
    assert train(one, *words) == 0
    assert main(["train", *again(two, one / "config.yaml")]) == 0
    first, second = load(one), load(two)
    assert first.process == second.process and first.process.sigma_max == 20
    mine, theirs = first.net.state_dict(), second.net.state_dict()
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    assert (one / "metrics.jsonl").read_bytes() == (two / "metrics.jsonl").read_bytes()
    assert sample(one, "--num", 5, "--sampler", "DDPM", "--steps", 4) == 0
    assert likelihood(one, "--num", 5, "--steps", 10) == 0
    for command in ("sample", "likelihood"):
        inner = {"sample": "samples"}.get(command, command)
        assert main([command, *again(two / inner, one / inner / "config.yaml")]) == 0
    mine, theirs = (load_file(name / "samples" / "samples-00000.safetensors")["samples"] for name in (one, two))
    assert torch.equal(mine, theirs)
    for name in ("values.csv", "metrics.jsonl"):
        assert (one / "likelihood" / name).read_bytes() == (two / "likelihood" / name).read_bytes()
    assert train(tmp_path / "three", *words, "--seed", 1) == 0
    assert (one / "metrics.jsonl").read_bytes() != (tmp_path / "three" / "metrics.jsonl").read_bytes()


def test_a_call_from_python_says_as_much(tmp_path):
    from functools import partial

    from scoresde import VE, runs
    from scoresde.networks import MLP

    runs.train(tmp_path / "one", "moons", process=VE(sigma_max=9.0), net=partial(MLP, width=8), steps=5, quiet=True)
    assert main(["train", *again(tmp_path / "two", tmp_path / "one" / "config.yaml")]) == 0
    one, two = ((tmp_path / name / "metrics.jsonl").read_bytes() for name in ("one", "two"))
    assert one == two and load(tmp_path / "two").process == VE(sigma_max=9.0)


def test_labels_and_widths_of_averages(tmp_path, capsys):
    words = ["--data", "digits", "--conditional", "true", "--posthoc", "true", "--net", "UNet", "--net.width", 8]
    assert train(tmp_path / "run", *words, "--batch_size", 8, steps=4) == 0
    words = ["--num", 3, "--label", 7, "--std", 0.1, "--steps", 3, "--sampler", "DPMSolverPP", "--sampler.order", 2]
    assert sample(tmp_path / "run", *words) == 0
    samples = load_file(tmp_path / "run" / "samples-label7" / "samples-00000.safetensors")["samples"]
    assert samples.shape == (3, 1, 8, 8) and samples.dtype == torch.uint8 and samples.max() <= 16
    assert sample(tmp_path / "run", *words, "--weight", 10_000) == 0  # four steps know little of classes
    guided = load_file(tmp_path / "run" / "samples-label7-weight10000" / "samples-00000.safetensors")["samples"]
    assert guided.shape == samples.shape and not torch.equal(guided, samples)
    assert likelihood(tmp_path / "run", "--conditional", "--num", 2, "--steps", 3, "--divergence", "hutchinson") == 0
    assert "bits/dim" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [["--data", "moons"], ["--data", "waves", "--data_options.length", "16"], ["--data", "wine"], ["--data", "digits"],
     ["--data", "photographs", "--data_options.size", "8", "--data_options.n", "40"],
     ["--objective", "implicit", "--data", "moons"], ["--coupling", "optimal"]],
    ids=lambda words: words[1],
)  # fmt: skip
def test_pictures_of_every_kind_of_data(words, tmp_path, capsys):
    out = tmp_path / "run"
    assert train(out, *words, "--batch_size", 16, steps=3) == 0
    for name in ("samples.png", "losses.png"):
        with Image.open(out / name) as picture:
            assert min(picture.size) > 300
    assert not capsys.readouterr().err
    assert sample(out, "--num", 4, "--steps", 3) == 0 and (out / "samples" / "samples.png").exists()


def test_without_matplotlib_and_tensorboard_a_run_is_a_run(tmp_path, monkeypatch, capsys):
    for name in ("matplotlib", "matplotlib.figure", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    assert train(tmp_path / "run", "--quiet", "false", steps=3) == 0
    lines = capsys.readouterr().err.splitlines()
    assert [line for line in lines if "install scoresde[experiments]" in line]
    assert not (tmp_path / "run" / "samples.png").exists() and not (tmp_path / "run" / "tensorboard").exists()


def test_quiet_says_the_result_only(tmp_path, capsys):
    assert train(tmp_path / "run", steps=3) == 0
    out, err = capsys.readouterr()
    assert err == "" and out == f"3 steps in {tmp_path / 'run'}; scoresde sample {tmp_path / 'run'} draws from them\n"


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

def deep(shape, depth: int = 2) -> torch.nn.Module:
    return Net(shape)
"""


@pytest.mark.slow
def test_parts_of_your_own_by_their_paths(tmp_path):
    """From a folder outside the package, by the installed command; and no file of a run makes code run."""
    (tmp_path / "mine.py").write_text(MINE)

    def call(*words):
        script = [str(Path(sys.executable).with_name("scoresde")), *words, "--device", "cpu", "--quiet"]
        done = subprocess.run(script, capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stdout, done.stderr

    own = ["--process", "mine.Straight(last=0.9)", "--net", "mine.Net(width=5)"]
    code, _, err = call("train", "--out", "run", "--data", "moons", "--steps", "20", *own)
    assert (code, err) == (0, "")
    code, out, err = call("sample", "run", "--num", "3")
    assert (code, out) == (2, "") and err == (
        "scoresde sample: run was trained with code of your own, which no file may run: "
        "add --process 'mine.Straight(last=0.9)' --net 'mine.Net(width=5)'\n"
    )
    assert call("sample", "run", "--num", "3", *own)[::2] == (0, "")
    assert load_file(tmp_path / "run" / "samples" / "samples-00000.safetensors")["samples"].shape == (3, 2)
    code, out, _ = call("likelihood", "run", "--num", "3", "--steps", "10", *own)
    assert code == 0 and out.startswith("log p = ")
    (tmp_path / "mine.py").write_text(
        MINE.replace("    def alpha", "    def unused(self):\n        pass\n    def alpha", 1)
    )
    # The code was edited, the process is the same.
    assert call("sample", "run", "--num", "4", "--out", "again", *own)[::2] == (0, "")


def test_parts_of_your_own_that_do_not_fit(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine2.py").write_text(MINE)
    monkeypatch.chdir(tmp_path)
    assert train("run", "--process", "mine2.Straight", "--process.last", 0.9) == 0
    assert train("deep", "--net", "mine2.deep(depth=3)") == 0
    capsys.readouterr()
    for run, words, message in [
        ("run", ["--process", "mine2.Straight"], "add --process 'mine2.Straight(last=0.9)' --net 'MLP(width=8, "),
        (
            "run",
            ["--process", "mine2.Straight", "--net", "MLP(width=8)"],
            "another one: add --process 'mine2.",
        ),
        ("deep", [], "add --net 'mine2.deep(depth=3)'"),
        ("deep", ["--net", "MLP"], "does not fit the network"),
        ("deep", ["--net", "mine2.deep", "--process", "VE"], "process: deep has its own; leave --process out"),
    ]:
        assert sample(run, *words) == 2
        assert message in capsys.readouterr().err
    assert sample("deep", "--net", "mine2.deep", "--num", 2) == 0
    sys.modules.pop("mine2")


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
        (["--net", "UNet"], "shape must be (C, H, W) or (C, L), got (2,); networks.MLP takes any shape"),
        (["--data_options.m", "3"], "unknown option 'm' for 'moons'; it takes n, seed"),
        (["--held_out", "1"], "held_out must be"),
        (["--weighting", "edn"], "Did you mean 'edm'?"),
        (["--objective", "sliced", "--weighting", "edm"], "weighting belongs to objective='denoising'"),
    ],
    ids=lambda value: value[0] + "-" + getattr(value[1], "__name__", value[1]) if isinstance(value, list) else "",
)
def test_what_is_wrong_is_one_line_and_exit_2(words, message, tmp_path, capsys):
    words = [word(tmp_path / "data") if callable(word) else word for word in words]
    assert train(tmp_path / "run", *words) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 1 and message in shown[0] and shown[0].startswith("scoresde train: ")
    assert not list(tmp_path.rglob("*.safetensors")) and not list(tmp_path.rglob("*.draft"))


def test_what_does_not_belong_together_is_one_line(tmp_path, capsys):
    run = tmp_path / "run"
    assert train(run, steps=3) == 0
    assert sample(run, "--num", 2) == 0
    assert likelihood(run, "--num", 2, "--steps", 5) == 0
    capsys.readouterr()
    for call, words, message in [
        (sample, ["--std", 0.1], "kept no averages of its weights; train with --posthoc"),
        (sample, ["--label", 3], "label was given to a network without classes"),
        (sample, ["--weight", 3], "weight is of guidance towards a class; add --label 7, say, got --weight 3 alone"),
        (sample, ["--process", "VE"], "has its own; leave --process out"),
        (sample, ["--num", 2, "--seed", 1], "holds other samples than these"),
        (likelihood, ["--data", "digits"], "the model is of continuous data, digits are of 17 levels"),
        (likelihood, ["--data", "wine"], "a sample of the model is (2,), of wine (13,)"),
        (likelihood, ["--conditional"], "the data have no labels"),
        (likelihood, ["--num", 2, "--steps", 6], "holds values of another model or other settings"),
        (likelihood, ["--divergence", "exct"], "Did you mean 'exact'?"),
        (likelihood, ["--dequantize", "unform"], "Did you mean 'uniform'?"),
        (likelihood, ["--num", 0], "num must be at least 1"),
    ]:  # fmt: skip
        assert call(run, *words) == 2
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1 and message in lines[0], words


STARTS = {"train": "checkpoints/step-000000005", "sample": "samples/samples-00000.safetensors",
          "likelihood": "likelihood/values.csv"}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("command", STARTS)
def test_ctrl_c_leaves_what_goes_on(command, tmp_path):
    run = tmp_path / "run"
    if command == "train":
        words = ["train", "--out", str(run), "--data", "moons", "--every", "5", "--steps", "100000"]
    else:
        assert train(run, "--data", "digits", steps=3) == 0
        words = [command, str(run), "--num", {"sample": "1000000", "likelihood": "170"}[command]]
    process = subprocess.Popen(
        [sys.executable, "-m", "scoresde", *words, "--device", "cpu"], stderr=subprocess.PIPE, text=True, cwd=ROOT
    )
    for _ in range(600):
        if (run / STARTS[command]).exists():
            break
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    shown = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "the same command goes on from the last" in shown
    assert "Traceback" not in shown
    if command == "train":
        assert int(resume.newest(run).name[5:]) >= 5 and load(run).process == VP()


@pytest.mark.slow
def test_ctrl_c_while_it_starts(tmp_path):
    """As soon as the command's own code runs, whatever it is importing then."""
    code = "import sys; from scoresde.cli import main; print('ready', flush=True); sys.exit(main(sys.argv[1:]))"
    words = ["train", "--out", str(tmp_path / "run"), "--data", "moons", "--steps", "100000", "--device", "cpu"]
    pipe = subprocess.PIPE
    for wait in (0.0, 0.2):
        process = subprocess.Popen([sys.executable, "-c", code, *words], stdout=pipe, stderr=pipe, text=True)
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.05 + wait)
        process.send_signal(signal.SIGINT)
        shown = process.communicate(timeout=60)[1]
        assert process.returncode == 130 and "Traceback" not in shown and "interrupted" in shown
