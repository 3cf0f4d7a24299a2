"""A training that was stopped goes on to the same bits; what was damaged is passed over; what differs is refused."""

import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from scoresde import VE, VP, Model, data, fit, load, networks, targets
from scoresde.training import DamagedError, LossAware, resume
from scoresde.training.checkpoint import read_tensors
from scoresde.training.ema import exponent
from tests.test_checkpoint import Payload

ROOT = Path(__file__).parents[1]


def train(folder, stop=None, steps=20, process=None, seed=1, net=None, **options):
    """A small conditional U-Net with dropout on digits, stopped after a step if `stop` is given."""
    torch.manual_seed(0)
    process = process or VP()
    net = net or networks.Scaled(
        networks.UNet((1, 8, 8), width=8, multipliers=(1, 2), classes=10, dropout=0.1), process
    )
    if options.get("times") == "aware":
        options["times"] = LossAware(bins=4, warm_up=1)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    options = {"batch_size": 16, "every": 5, "checkpoints": folder, "conditional": True, **options}
    rows = data.load("digits")
    if options.pop("data", None):
        rows = data.Data(16 - rows.raw(torch.arange(len(rows))), rows.labels, rows.scaling)
    model = Model(net, process, options.pop("prediction", "v"))
    for record in fit(model, rows, steps, generator=generator, **options):
        if record.step == stop:
            return record
    return record


def everything(folder):
    """All tensors and numbers of the newest checkpoint, flat."""
    path = resume.newest(folder)
    weights, state = resume.read(path)
    return flat({"weights": weights, "state": state, "average": read_tensors(path / "model.safetensors")[0]})


def flat(tree, name=""):
    if isinstance(tree, (list, tuple)):
        tree = dict(enumerate(tree))
    if isinstance(tree, dict):
        return {key: value for part in tree for key, value in flat(tree[part], f"{name}/{part}").items()}
    return {name: tree}


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) if isinstance(one[k], torch.Tensor) else one[k] == other[k] for k in one
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"seed": None},
        {"times": "aware", "weighting": "elbo"},
        {"coupling": "optimal", "accumulate": 3},
        {"objective": "sliced", "prediction": "noise"},
        {"bf16": True, "low_discrepancy": False, "times": "uniform"},
        {"optimizer": lambda weights, lr: torch.optim.SGD(weights, lr, momentum=0.9)},
    ],
    ids=lambda options: "-".join(options) or "plain",
)
def test_going_on_gives_the_same_bits(options, tmp_path):
    """Weights, average, optimizer, randomness, place in the data, and what LossAware learnt, at a stop off the grid."""
    torch.manual_seed(5)
    train(tmp_path / "calm", **options)
    torch.manual_seed(5)
    train(tmp_path / "torn", stop=13, **options)
    torch.manual_seed(99)  # a new process would have another global state
    last = train(tmp_path / "torn", **options)
    assert last.step == 20
    assert same(everything(tmp_path / "calm"), everything(tmp_path / "torn"))


def test_the_comparison_sees_one_bit(tmp_path):
    train(tmp_path / "one", steps=5)
    train(tmp_path / "other", steps=5, seed=2)
    assert not same(everything(tmp_path / "one"), everything(tmp_path / "other"))


def test_a_finished_training_yields_its_end(tmp_path):
    first = train(tmp_path, steps=5)
    again = train(tmp_path, steps=5)
    assert again.step == 5 and float(again.loss) == pytest.approx(float(first.loss), rel=1e-6)
    mine, theirs = (record.model.net.state_dict() for record in (first, again))
    assert all(torch.equal(mine[k], theirs[k]) for k in mine)
    loaded = load(tmp_path)
    assert all(torch.equal(loaded.net.state_dict()[k], mine[k]) for k in mine)
    assert all(torch.equal(a, b) for a, b in zip(loaded.moments, first.model.moments))
    with pytest.raises(ValueError, match="has 5 steps already, more than steps=4"):
        train(tmp_path, steps=4)


def test_only_the_newest_are_kept(tmp_path):
    train(tmp_path, steps=20, every=3)
    assert [path.name for path in resume.steps_in(tmp_path)] == [f"step-{n:09d}" for n in (20, 18, 15)]
    assert sorted(path.name for path in tmp_path.iterdir())[0].startswith("step")


@pytest.mark.parametrize("name", ["model.safetensors", "weights.safetensors", "training.pt", "manifest.json"])
@pytest.mark.parametrize("harm", ["cut", "bit", "gone"])
def test_a_damaged_newest_falls_back_with_a_warning(name, harm, tmp_path):
    train(tmp_path / "calm")
    train(tmp_path / "torn", stop=12)
    path = resume.steps_in(tmp_path / "torn")[0] / name
    held = bytearray(path.read_bytes())
    if harm == "bit":
        held[len(held) // 2] ^= 1
    path.write_bytes(held[: len(held) // 2] if harm == "cut" else held)
    if harm == "gone":
        path.unlink()
    with pytest.warns(UserWarning, match="damaged.*taking the one before it"):
        assert load(tmp_path / "torn").process == VP()
    with pytest.warns(UserWarning, match="damaged"):
        train(tmp_path / "torn")
    assert same(everything(tmp_path / "calm"), everything(tmp_path / "torn"))


def test_with_every_checkpoint_damaged_nothing_starts_anew(tmp_path):
    train(tmp_path, steps=10)
    for path in resume.steps_in(tmp_path):
        (path / "training.pt").write_bytes(b"")
    with pytest.warns(UserWarning, match="damaged"), pytest.raises(FileNotFoundError, match="no whole checkpoint in"):
        train(tmp_path)


def forged(path, **files):
    """Write files into a checkpoint and have its manifest vouch for them, as a stranger could."""
    for name, text in files.items():
        (path / name.replace("_", ".")).write_bytes(text)
    manifest = {name: resume._digest(path / name) for name in sorted(resume.FILES)}
    (path / "manifest.json").write_text(__import__("json").dumps(manifest))


def test_a_payload_in_a_checkpoint_is_refused_and_does_nothing(tmp_path):
    train(tmp_path / "run", steps=5)
    trace, path = tmp_path / "trace", resume.steps_in(tmp_path / "run")[0]
    whole = (path / "training.pt").read_bytes()
    torch.save({"step": 5, "optimizer": Payload(trace)}, tmp_path / "payload.pt")
    for harm in (
        (tmp_path / "payload.pt").read_bytes(),
        pickle.dumps(Payload(trace)),
        whole[:-300],
        b"PK" + whole[2:500],
    ):
        forged(path, training_pt=harm)
        with pytest.raises(
            DamagedError, match=r"training\.pt is damaged or holds more than tensors and numbers"
        ) as error:
            train(tmp_path / "run", steps=5)
        assert "\n" not in str(error.value) and not trace.exists()


def test_tricks_with_paths_are_refused(tmp_path):
    train(tmp_path / "run", steps=5)
    path = resume.steps_in(tmp_path / "run")[0]
    secret = tmp_path / "secret"
    shutil.copy(path / "training.pt", secret)
    (path / "training.pt").unlink()
    (path / "training.pt").symlink_to(secret)
    with pytest.raises(DamagedError, match=r"training\.pt is not what was written"):
        resume.check(path)
    (path / "manifest.json").write_text('{"../../secret": "0", "model.safetensors": "0", "weights.safetensors": "0"}')
    with pytest.raises(DamagedError, match="its manifest does not list"):
        resume.check(path)
    assert secret.exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"process": VE()}, "with process=VP(beta_min=0.1, beta_max=20.0), not VE"),
        ({"batch_size": 8}, "with batch_size=16, not 8"),
        ({"lr": 1e-4}, "with lr=0.001, not 0.0001"),
        ({"weighting": "elbo"}, "with weighting=None, not elbo"),
        ({"data": "mnist-like"}, "is of other data"),
        ({"seed": None}, "give a generator now"),
        ({"net": networks.Scaled(networks.MLP((1, 8, 8), width=8, classes=10), VP())}, "does not fit this training"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_checkpoints_of_another_training_are_refused(change, message, tmp_path):
    train(tmp_path, steps=5)
    with pytest.raises(ValueError, match=re.escape(message)):
        train(tmp_path, **change)


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    (tmp_path / ".step-000000005.999999.draft").mkdir(parents=True)
    (tmp_path / ".step-000000005.999999.draft" / "model.safetensors").write_bytes(b"half")
    train(tmp_path, steps=5)
    assert not list(tmp_path.glob(".*"))


def test_running_out_of_memory_says_what_to_do():
    class Greedy(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.zeros(()))

        def forward(self, x, t):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 80 GiB.\nSee the documentation")

    records = fit(Model(Greedy(), VP(), "v"), targets.moons(100), 3, batch_size=32, accumulate=2)
    with pytest.raises(torch.OutOfMemoryError, match=re.escape("accumulate=4 takes half of it")) as error:
        next(records)
    assert "\n" not in str(error.value)


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing():
    """experiments/kill_training.py at a tenth of its size: SIGKILL, often with a checkpoint half-written."""
    script = [sys.executable, str(ROOT / "experiments" / "kill_training.py"), "--kills", "5", "--steps", "700"]
    done = subprocess.run(script, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "killed 5 times" in done.stdout and "the same to the last bit" in done.stdout


def test_averages_of_any_width_after_the_training(tmp_path):
    """load(std=) is the average of that width: of one that was kept exactly; of a third, near the true average, which
    is known from the weights of every step. And a stop changes no bit of it.
    """
    torch.manual_seed(0)
    seen, net, rows = [], networks.MLP(2, width=8, blocks=1), targets.moons(100)
    start = [p.detach().clone() for p in net.parameters()]

    def go(folder, stop=None):
        for p, value in zip(net.parameters(), start):
            p.data.copy_(value)
        options = {"batch_size": 16, "every": 10, "posthoc": True, "generator": torch.Generator().manual_seed(0)}
        for record in fit(Model(net, VP(), "v"), rows, 200, checkpoints=folder, **options):
            seen.append(net.leave.weight.detach().double().clone())
            if record.step == stop:
                break

    go(tmp_path / "calm")
    weights = torch.stack(seen)
    for std, tolerance in ((0.10, 2e-3), (0.07, 0.05), (0.15, 0.05)):  # float32; twenty snapshots
        shares = (torch.arange(0, 201).double() / 200).pow(exponent(std) + 1).diff()
        truth = (shares[:, None, None] * weights).sum(0)
        found = load(tmp_path / "calm", std=std).net.leave.weight.double()
        assert (found - truth).norm() < tolerance * (weights[-1] - truth).norm()
    go(tmp_path / "torn", stop=57)
    go(tmp_path / "torn")
    one, two = (load(tmp_path / name, std=0.07).net.state_dict() for name in ("calm", "torn"))
    assert all(torch.equal(one[k], two[k]) for k in one)
    with pytest.raises(ValueError, match="posthoc=True"):
        load(resume.newest(tmp_path / "calm") / "model.safetensors", std=0.1)
