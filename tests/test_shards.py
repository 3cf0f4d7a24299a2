"""Samples as files: the same whatever the split, kept after a stop, whole or not there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scoresde import VE, VP, data, grids, networks, sample, targets
from scoresde._files import _here
from scoresde.model import Model
from scoresde.samplers import DDPM, sample_shards
from scoresde.scaling import Scaling

ROOT = Path(__file__).parents[1]


def model(process=None):
    return targets.GaussianMixture([0.4, 0.6], [[-1.0, 0.0], [1.0, 0.5]], 0.1).model(process or VP())


def joined(paths):
    return torch.cat([load_file(path)["samples"] for path in sorted(paths)])


@pytest.mark.parametrize("options", [{"steps": 8}, {"sampler": DDPM(), "steps": 10}], ids=["flow", "chain"])
def test_the_same_samples_whatever_the_split(options, tmp_path):
    """One process, or three that share the files, in any order: equal bits. Files of another size: rounding."""
    one = joined(sample_shards(model(), 25, tmp_path / "one", shard=4, seed=7, **options))
    for process in (2, 0, 1):
        list(sample_shards(model(), 25, tmp_path / "three", shard=4, seed=7, processes=3, process=process, **options))
    assert torch.equal(one, joined((tmp_path / "three").iterdir())) and one.shape == (25, 2)
    other = joined(sample_shards(model(), 25, tmp_path / "large", shard=25, seed=7, **options))
    assert (one - other).abs().max() < 1e-5  # float32, 10 steps
    assert torch.equal(other, sample(model(), (25, 2), seeds=range(7, 32), **options))
    assert not torch.equal(one, joined(sample_shards(model(), 25, tmp_path / "seed", shard=4, seed=8, **options)))


def test_a_stop_is_taken_up_without_drawing_twice(tmp_path):
    first = [next(records := sample_shards(model(), 10, tmp_path, shard=3, steps=4)), next(records)]
    times = [path.stat().st_mtime_ns for path in first]
    (tmp_path / f".samples-00002.safetensors.{_here()}-{2**22 + 1}.draft").write_bytes(b"half")  # a kill while writing
    paths = list(sample_shards(model(), 10, tmp_path, shard=3, steps=4))
    assert [path.stat().st_mtime_ns for path in paths[:2]] == times and len(paths) == 4
    whole = joined(sample_shards(model(), 10, tmp_path / "new", shard=3, steps=4))
    assert torch.equal(joined(paths), whole)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("change", "names"),
    [
        ({"seed": 1}, "seed"),
        ({"steps": 5}, "by"),
        ({"shard": 2}, "count"),
        ({"model": model(VE())}, "by"),
        ({"sampler": DDPM()}, "by"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_samples_are_not_mixed_in(change, names, tmp_path):
    options = {"model": model(), "num": 6, "folder": tmp_path, "shard": 3, "steps": 4}
    list(sample_shards(**options))
    with pytest.raises(ValueError, match=f"holds other samples than these .*{names}"):
        list(sample_shards(**{**options, **change}))


def test_weights_tell_models_apart(tmp_path):
    net = networks.MLP(2, width=8)
    list(sample_shards(Model(net, VP(), "v"), 4, tmp_path, shape=(2,), shard=2, steps=4))
    with torch.no_grad():
        net.leave.bias += 1e-3
    with pytest.raises(ValueError, match="holds other samples"):
        list(sample_shards(Model(net, VP(), "v"), 4, tmp_path, shape=(2,), shard=2, steps=4))


def test_raw_levels_are_bytes(tmp_path):
    exact = targets.Gaussian(torch.zeros(3), 0.3).model(VP())
    scaled = Model(exact.net, exact.process, exact.prediction, exact.moments, Scaling.of_levels(17))
    raw = joined(sample_shards(scaled, 50, tmp_path, shard=50, steps=10))
    x = sample(exact, (50, 3), steps=10, seeds=range(50))
    assert raw.dtype == torch.uint8 and torch.equal(raw.long(), Scaling.of_levels(17).inverse(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num": 0}, "num must be at least 1"),
        ({"shard": 0}, "shard must be at least 1"),
        ({"processes": 2, "process": 2}, "process must be one of 0..1, got 2"),
        ({"model": Model(networks.MLP(2), VP())}, "shape must be given"),
        ({"steps": 0}, "steps must be at least 1"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_is_wrong_is_named(options, message, tmp_path):
    with pytest.raises(ValueError, match=re.escape(message)):
        list(sample_shards(**{"model": model(), "num": 4, "folder": tmp_path, **options}))


def test_a_damaged_file_is_named(tmp_path):
    path, *_ = sample_shards(model(), 4, tmp_path, shard=2, steps=4)
    path.write_bytes(path.read_bytes()[:10])
    with pytest.raises(ValueError, match=r"samples-00000.safetensors is no file of samples .*; remove it"):
        list(sample_shards(model(), 4, tmp_path, shard=2, steps=4))


@pytest.mark.slow
def test_the_command_line_trains_goes_on_and_samples_in_two_processes(tmp_path):
    """scoresde train, killed by a smaller --steps; scoresde sample alone and by torchrun: the same files."""
    pytest.importorskip("accelerate")
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def scoresde(*words, processes=1):
        launch = (
            []
            if processes == 1
            else ["torch.distributed.run", "--standalone", f"--nproc_per_node={processes}", "-m", "--"]
        )
        command = [sys.executable, "-m", *launch, "scoresde", *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
        assert done.returncode == 0, done.stdout + done.stderr
        return done

    words = ["train", "--out", tmp_path / "run", "--data", "moons", "--device", "cpu", "--quiet", "--every", "20"]
    scoresde(*words, "--steps", 40, "--net", "MLP", "--net.width", 16, "--process", "VE", processes=2)
    wanted = {"checkpoints", "config.yaml", "environment.txt", "metrics.jsonl", "losses.png", "samples.png"}
    assert {path.name for path in (tmp_path / "run").iterdir()} >= wanted
    for processes in (1, 2):
        scoresde(
            "sample", tmp_path / "run", "--num", 50, "--shard", 10, "--out", tmp_path / str(processes),
            "--device", "cpu", processes=processes,
        )  # fmt: skip
    one, two = (joined((tmp_path / name).glob("*.safetensors")) for name in "12")
    assert torch.equal(one, two) and one.shape == (50, 2)
    assert len(data.load("moons")) and one.abs().max() < 100


def test_conditions_moments_and_functions_tell_models_apart(tmp_path):
    """What `given` filled in, moments, scaling, code and closures: nothing is taken for something else."""
    exact = model()

    def net(shift):
        return lambda x, t, label=0: exact.net(x, t) + shift + label

    kinds = [
        Model(net(0.0), VP(), exact.prediction),
        Model(net(0.1), VP(), exact.prediction),
        Model(net(0.0), VP(), exact.prediction).given(label=2),
        Model(net(0.0), VP(), exact.prediction).given(label=7),
        Model(net(0.0), VP(), exact.prediction, (torch.zeros(2), torch.ones(2))),
        Model(net(0.0), VP(), exact.prediction, None, Scaling(0.0, 2.0)),
        Model(net(0.0), VP(), exact.prediction).on(VE()),
        exact.on(VE()),
        exact.on(VE(0.02)),
    ]
    options = {"shape": (2,), "shard": 3, "steps": 4}
    for i, one in enumerate(kinds):
        list(sample_shards(one, 3, tmp_path / str(i), **options))
        list(sample_shards(one, 3, tmp_path / str(i), **options))  # itself is taken up
        for other in kinds[:i]:
            with pytest.raises(ValueError, match="holds other samples"):
                list(sample_shards(other, 3, tmp_path / str(i), **options))


def test_more_samples_later(tmp_path):
    list(sample_shards(model(), 3, tmp_path, shard=2, steps=4, grid=grids.quadratic))
    more = joined(sample_shards(model(), 6, tmp_path, shard=2, steps=4, grid=grids.quadratic))
    assert torch.equal(
        more, joined(sample_shards(model(), 6, tmp_path / "new", shard=2, steps=4, grid=grids.quadratic))
    )
    few = joined(sample_shards(model(), 6, tmp_path / "few", shard=6, batch=4, steps=4, grid=grids.quadratic))
    assert (few - more).abs().max() < 1e-5
    with pytest.raises(ValueError, match=re.escape("below 2**63")):
        sample_shards(model(), 6, tmp_path / "far", seed=2**63)
