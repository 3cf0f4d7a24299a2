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
from scoresde._files import _here
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
    manifest = {**{name: resume._digest(path / name) for name in sorted(resume.FILES)}, "averages": {}}
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
        (
            {"net": networks.Scaled(networks.MLP((1, 8, 8), width=8, classes=10), VP())},
            "net=Scaled, not Scaled made otherwise",
        ),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_the_checkpoints_of_another_training_are_refused(change, message, tmp_path):
    train(tmp_path, steps=5)
    with pytest.raises(ValueError, match=re.escape(message)):
        train(tmp_path, **change)


def test_what_a_killed_process_left_is_swept_away(tmp_path):
    half = tmp_path / f".step-000000005.{_here()}-{2**22 + 1}.draft"
    half.mkdir(parents=True)
    (half / "model.safetensors").write_bytes(b"half")
    other = tmp_path / ".step-000000005.elsewhere-1.draft"  # of another machine, which may be writing it
    other.mkdir()
    train(tmp_path, steps=5)
    assert list(tmp_path.glob(".*")) == [other]


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


def test_other_rows_of_data_are_refused(tmp_path):
    """Fewer of the same, with the same moments: a place in the old order would be none in the new."""
    base = targets.moons(20, torch.Generator().manual_seed(0))
    model, options = Model(networks.MLP(2, width=8), VP(), "v"), {"batch_size": 10, "checkpoints": tmp_path, "every": 5}
    list(fit(model, base.repeat(10, 1), 10, **options))
    with pytest.raises(ValueError, match="of 200 rows of data, not 180"):
        list(fit(model, base.repeat(9, 1), 12, **options))


def test_a_function_of_its_own_randomness_goes_on(tmp_path):
    model = Model(networks.MLP(2, width=8), VP(), "v")
    for steps in (3, 6):
        *_, last = fit(model, lambda n, g: torch.randn(n, 2), steps, batch_size=8, checkpoints=tmp_path)
    assert last.step == 6
    assert all(torch.equal(a, b) for a, b in zip(last.model.moments, load(tmp_path).moments))


def test_damaged_newer_checkpoints_do_not_push_out_the_whole_one(tmp_path):
    train(tmp_path, steps=10)
    whole = resume.steps_in(tmp_path)[0]
    for step in (100, 200, 300):
        (tmp_path / f"step-{step:09d}").mkdir()
    with pytest.warns(UserWarning, match="taking the one before it"):
        train(tmp_path, steps=20)
    assert resume.newest(tmp_path).name == "step-000000020" and whole.exists()
    assert len(list(tmp_path.glob("damaged-*"))) == 3


def test_another_training_in_the_folder_is_noticed(tmp_path):
    train(tmp_path, steps=5)
    shutil.copytree(tmp_path / "step-000000005", tmp_path / "step-000000010")
    (tmp_path / "step-000000010" / "training.pt").write_bytes(b"")  # passed over, then put back by the other
    with pytest.warns(UserWarning, match="damaged"):
        records = fit(*again(tmp_path), steps=15, **OPTIONS, checkpoints=tmp_path)
    shutil.copytree(tmp_path / "step-000000005", tmp_path / "step-000000010")
    with pytest.raises(OSError, match="another training writes to"):
        list(records)


OPTIONS = {"batch_size": 16, "every": 5, "conditional": True}


def again(folder):
    """Model and data of `train`."""
    torch.manual_seed(0)
    net = networks.Scaled(networks.UNet((1, 8, 8), width=8, multipliers=(1, 2), classes=10, dropout=0.1), VP())
    OPTIONS["generator"] = torch.Generator().manual_seed(1)
    return Model(net, VP(), "v"), data.load("digits")


def test_damaged_averages_fall_back_too(tmp_path):
    net, rows = networks.MLP(2, width=8), targets.moons(50, torch.Generator().manual_seed(0))
    options = {"batch_size": 8, "checkpoints": tmp_path, "every": 5, "posthoc": True}
    list(fit(Model(net, VP(), "v"), rows, 10, **options))
    path = tmp_path / "averages" / "step-000000010.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.warns(UserWarning, match="step-000000010.safetensors is not what was written"):
        *_, last = fit(Model(net, VP(), "v"), rows, 10, **options)
    assert last.step == 10 and load(tmp_path, std=0.1).process == VP()


def test_each_group_of_weights_keeps_its_rate():
    net = networks.MLP(2, width=8)
    frozen = [net.enter.weight, net.enter.bias]
    rest = [p for p in net.parameters() if all(p is not q for q in frozen)]
    before = [p.detach().clone() for p in frozen]

    def groups(weights, lr):
        return torch.optim.Adam([{"params": frozen, "lr": 0.0}, {"params": rest}], lr)

    list(fit(Model(net, VP(), "v"), targets.moons(50), 3, batch_size=8, optimizer=groups))
    assert all(torch.equal(a, b) for a, b in zip(before, frozen))


def test_training_mode_while_training_and_not_after(tmp_path):
    net = networks.UNet((1, 8, 8), width=8, multipliers=(1, 2), dropout=0.5).eval()
    *_, last = fit(Model(net, VP(), "v"), data.load("digits"), 1, batch_size=4, checkpoints=tmp_path)
    assert net.training and not last.model.net.training
    assert not load(tmp_path, net=net).net.training
    with pytest.raises(ValueError, match=re.escape("net.requires_grad_(True)")):
        fit(last.model, data.load("digits"), 1)
