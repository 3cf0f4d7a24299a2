"""`save` and `load`: what comes back is what was kept; what was tampered with is refused, and nothing happens."""

import json
import os
import pickle
import re
import struct
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

from scoresde import (
    EDM,
    VE,
    VP,
    Cosine,
    Discrete,
    Model,
    Process,
    RectifiedFlow,
    Sigmoid,
    SubVP,
    ddpm,
    load,
    networks,
    sample,
    save,
)  # fmt: skip
from scoresde.scaling import Scaling
from scoresde.training import DamagedError

PROCESSES = [
    VP(0.2, 15.0), SubVP(), VE(0.02, 30.0), EDM(), Cosine(), Sigmoid(), RectifiedFlow(), ddpm(30), Discrete([0.1, 0.3]),
]  # fmt: skip


def built(process, net=None, **rest):
    torch.manual_seed(0)
    net = net or networks.Scaled(networks.MLP(3, width=8, blocks=1), process, 0.7)
    for p in net.parameters():
        nn.init.normal_(p)
    return Model(net.eval(), process, "v", **rest)


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_a_model_comes_back_to_the_last_bit(process, tmp_path):
    scaling = Scaling(torch.tensor([1.0, 2.0, 3.0]), 0.1, levels=7)
    model = built(process, moments=(torch.randn(3), torch.rand(3) + 0.1), scaling=scaling)
    save(model, tmp_path / "deep" / "model.safetensors")
    state = torch.get_rng_state()
    again = load(tmp_path / "deep" / "model.safetensors")
    assert torch.equal(state, torch.get_rng_state())
    assert again.process == process and again.prediction == "v"
    assert all(torch.equal(a, b) for a, b in zip(again.moments, model.moments))
    assert torch.equal(again.scaling.shift, scaling.shift) and again.scaling.levels == 7
    x, t = torch.randn(5, 3), torch.rand(5) * process.t_max
    assert torch.equal(again(x, t), model(x, t))


@pytest.mark.parametrize(
    "net",
    [
        networks.MLP((2, 3), width=8),
        networks.UNet((1, 6, 6), width=8, multipliers=(1, 2), classes=3),
        networks.DiT((1, 6, 6), patch=3, width=16, blocks=1, heads=2, classes=3),
        networks.Preconditioned(networks.MLP(2, width=8), EDM(), 0.5),
    ],
    ids=lambda net: type(net).__name__,
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_network_is_built_again(net, dtype, tmp_path):
    model = built(VP(), net.to(dtype))
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors").net
    assert type(again) is type(net) and not again.training
    mine, theirs = net.state_dict(), again.state_dict()
    assert mine.keys() == theirs.keys() and all(torch.equal(mine[k], theirs[k]) for k in mine)


class Own(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.layer = nn.Linear(2, width)
        self.tied = self.layer

    def forward(self, x, t):
        return self.layer(x)


class Straight(Process):
    def alpha(self, t):
        return 1 - t

    def sigma(self, t):
        return t


def test_what_is_your_own_is_asked_for(tmp_path):
    path = tmp_path / "own.safetensors"
    model = Model(Own(2), Straight(), lambda process, t: (1.0, -1.0))
    save(model, path)
    with pytest.raises(ValueError, match=re.escape("load(path, process=...)")):
        load(path)
    with pytest.raises(ValueError, match=re.escape("load(path, prediction=...)")):
        load(path, process=Straight())
    with pytest.raises(ValueError, match=re.escape("load(path, net=...)")):
        load(path, process=Straight(), prediction="v")
    again = load(path, net=Own(2), process=Straight(), prediction="v")
    assert torch.equal(again.net.layer.weight, model.net.layer.weight)
    with pytest.raises(DamagedError, match=re.escape("(2,) in the file, (3,) in the network")):
        load(path, net=Own(3), process=Straight(), prediction="v")


def test_missing_files_and_wrong_objects(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no file"):
        load(tmp_path / "nothing.safetensors")
    with pytest.raises(FileNotFoundError, match="no checkpoint in"):
        load(tmp_path)
    with pytest.raises(TypeError, match=re.escape("model.net must be a Module")):
        save(Model(lambda x, t: x, VP()), tmp_path / "m")
    with pytest.raises(TypeError, match="model must be a Model"):
        save(networks.MLP(2), tmp_path / "m")
    bad = built(VP())
    nn.init.constant_(bad.net.net.leave.bias, float("nan"))
    with pytest.raises(ValueError, match=re.escape("cannot save net.net.leave.bias: it is not a number")):
        save(bad, tmp_path / "m")
    assert not list(tmp_path.iterdir())


# ── tampered files ───────────────────────────────────────────────────────────────────────────────────────────────────


class Payload:
    """What a stranger's pickle would do."""

    def __init__(self, trace):
        self.trace = str(trace)

    def __reduce__(self):
        return os.system, (f"touch {self.trace}",)


def changed(path, tensors=None, **about):
    """The file with other tensors or another note."""
    held = load_file(path)
    header = path.read_bytes()
    size = struct.unpack("<Q", header[:8])[0]
    note = json.loads(json.loads(header[8 : 8 + size])["__metadata__"]["scoresde"])
    save_file({**held, **(tensors or {})}, path, {"scoresde": json.dumps({**note, **about})})


def deep(path):
    held = load_file(path)
    save_file(held, path, {"scoresde": '{"format": 1, "net": ' + "[" * 100_000 + "]" * 100_000 + "}"})


TAMPERED = {
    "a pickle with a payload": lambda path, trace: path.write_bytes(pickle.dumps(Payload(trace))),
    "a torch file with a payload": lambda path, trace: torch.save({"net": Payload(trace)}, path),
    "cut off in the middle": lambda path, trace: path.write_bytes(path.read_bytes()[:-500]),
    "cut off in the header": lambda path, trace: path.write_bytes(path.read_bytes()[:40]),
    "empty": lambda path, trace: path.write_bytes(b""),
    "a header of 2⁶⁰ bytes": lambda path, trace: path.write_bytes(struct.pack("<Q", 2**60) + path.read_bytes()[8:]),
    "wrong shapes": lambda path, trace: changed(path, {"net.net.leave.bias": torch.zeros(99)}),
    "a tensor too many": lambda path, trace: changed(path, {"net.extra": torch.zeros(2)}),
    "a network as large as memory": lambda path, trace: changed(
        path, net={"network": "MLP", "arguments": {"shape": 3, "width": 10**12}}
    ),
    "a network without end": lambda path, trace: changed(
        path, net={"network": "MLP", "arguments": {"shape": 3, "blocks": 10**9}}
    ),
    "a class by its path": lambda path, trace: changed(
        path, net={"network": "os.system", "arguments": {"command": f"touch {trace}"}}
    ),
    "a process by its path": lambda path, trace: changed(
        path, process={"process": "../../etc/passwd", "arguments": {}}
    ),
    "arguments that are none": lambda path, trace: changed(
        path, net={"network": "MLP", "arguments": {"__class__": "x"}}
    ),
    "a list without end": lambda path, trace: deep(path),
    "weights that are no numbers": lambda path, trace: changed(
        path, {"net.net.leave.bias": torch.full((3,), float("nan"))}
    ),
    "an unknown prediction": lambda path, trace: changed(path, prediction="__import__('os')"),
    "another format": lambda path, trace: changed(path, format=99),
    "a scaling by nothing": lambda path, trace: changed(
        path, {"scaling.shift": torch.zeros(()), "scaling.scale": torch.zeros(())}, scaling={"levels": 4}
    ),
}


@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_file_is_refused_in_one_line_and_does_nothing(name, tmp_path):
    path, trace = tmp_path / "model.safetensors", tmp_path / "trace"
    save(built(VP()), path)
    TAMPERED[name](path, trace)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError) as refused:
        load(path)
    message = str(refused.value)
    assert str(path) in message or "scale" in message
    assert "\n" not in message and len(message) < 400 + len(str(path))
    assert sorted(tmp_path.iterdir()) == before and not trace.exists()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(place=st.floats(0, 1), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_a_number(place, bit, tmp_path_factory):
    """One file has no checksum: a changed weight passes, anything else is refused; never another kind of error."""
    path = tmp_path_factory.mktemp("flip") / "model.safetensors"
    save(built(VP()), path)
    held = bytearray(path.read_bytes())
    held[int(place * (len(held) - 1))] ^= 1 << bit
    path.write_bytes(held)
    try:
        model = load(path)
    except ValueError:
        return
    assert isinstance(model, Model)


# ── places that cannot be written ────────────────────────────────────────────────────────────────────────────────────

FULL = """
import resource, signal, sys, torch
from scoresde import VP, Model, fit, networks, save, targets
from scoresde.samplers import sample_shards
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
model = Model(networks.MLP(2, width=64), VP(), "v")
data = targets.moons(100)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    if sys.argv[2] == "save":
        save(model, sys.argv[1] + "/model.safetensors")
    elif sys.argv[2] == "fit":
        tiny = Model(networks.MLP(2, width=12, blocks=1, features=8), VP(), "v")  # its optimizer alone is too large
        list(fit(tiny, data, 2, checkpoints=sys.argv[1] + "/run", batch_size=8))
    else:
        exact = targets.Gaussian(torch.zeros(2), 1.0).model(VP())
        list(sample_shards(exact, 100_000, sys.argv[1] + "/s", shard=50_000, steps=2))
except OSError as error:
    print(error)
"""


@pytest.mark.parametrize("what", ["save", "fit", "shards"])
def test_a_full_disk_is_one_line_and_leaves_nothing(what, tmp_path):
    """A limit on the size of files stands for the disk: writes fail in the same place, with another number."""
    done = subprocess.run([sys.executable, "-c", FULL, str(tmp_path), what], capture_output=True, text=True, check=True)
    assert "cannot write" in done.stdout and "nothing was left there" in done.stdout, done.stdout + done.stderr
    assert len(done.stdout.strip().splitlines()) == 1
    assert not [path for path in tmp_path.rglob("*") if path.is_file() or path.name.startswith(".")]


def test_no_place_to_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write .*file/model"):
        save(built(VP()), tmp_path / "file" / "model.safetensors")


def test_an_older_file_is_replaced_whole(tmp_path):
    path = tmp_path / "m.safetensors"
    save(built(VP()), path)
    save(built(VE()), path)
    assert load(path).process == VE()
    assert [p.name for p in tmp_path.iterdir()] == ["m.safetensors"]
    x = sample(load(path), (4, 3), steps=5)
    assert x.shape == (4, 3)


@pytest.mark.parametrize(
    "model",
    [
        Model(networks.MLP(2, width=8, highest=10000), VE(0.01, 5000), "v"),
        Model(networks.Scaled(networks.MLP(2, width=8), VP(), 6000), VP(), "v"),
        Model(networks.DiT((1, 4, 4), width=16, blocks=1, heads=2).bfloat16(), VP(), "v"),
    ],
    ids=["large numbers", "large scale", "bfloat16"],
)
def test_what_is_saved_can_be_loaded_and_called(model, tmp_path):
    save(model, tmp_path / "m.safetensors")
    again = load(tmp_path / "m.safetensors")
    like = model.like()
    x = torch.randn(2, 1, 4, 4, dtype=like.dtype) if like.dtype == torch.bfloat16 else torch.randn(2, 2)
    assert torch.equal(again(x, 0.5), model.net.eval()(x, torch.full((2,), 0.5, dtype=x.dtype)))


def test_infinite_buffers_are_buffers(tmp_path):
    net = Own(2)
    net.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
    save(Model(net, VP(), "v"), tmp_path / "m.safetensors")
    again = Own(2)
    again.register_buffer("mask", torch.zeros(2))
    assert torch.equal(load(tmp_path / "m.safetensors", net=again).net.mask, net.mask)


def test_a_network_of_many_small_parts_is_refused_at_once(tmp_path):
    path = tmp_path / "m.safetensors"
    save(built(VP()), path)
    many = {"shape": [1, 4, 4], "width": 4, "multipliers": [1] * 10, "blocks": 400}
    changed(path, net={"network": "UNet", "arguments": many})
    with pytest.raises(DamagedError, match=r"more than the .* tensors in the file"):
        load(path)
