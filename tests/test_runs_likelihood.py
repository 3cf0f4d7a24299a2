"""scoresde likelihood against exact densities: of the standard normal, which an untrained network on VP has.

Its last layer is zero, and v = 0 says ε = σ x, x₀ = α x: the score −x, as α² + σ² = 1.
"""

import csv
import json
import math
import sys

import numpy as np
import pytest
import torch

from scoresde import VP, Model, data, load, log_prob, save
from scoresde.cli import main
from scoresde.networks import MLP
from scoresde.runs import likelihood
from scoresde.scaling import Scaling

SOLVED = 2e-3
"""Nats a sample that the flow may be off: 40 calls aim at 3.5e-4 a dimension, and there are up to 4."""


def normal(path, dim, scaling):
    """A file with N(0, 1) in each dimension, of raw values by `scaling`."""
    save(Model(MLP(dim, width=8), VP(), "v", None, scaling), path)
    return path


def values(folder, name="nats"):
    with (folder / "values.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file)]


def test_a_continuous_density_is_that_of_the_raw_values(tmp_path):
    shift, scale = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([2.0, 0.1, 1.0])
    raw = shift + scale * torch.randn(90, 3, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "raw.npy", raw.double().numpy())
    run = normal(tmp_path / "model.safetensors", 3, Scaling(shift, scale))
    result = likelihood(run, str(tmp_path / "raw.npy"), num=90, device="cpu", quiet=True)
    law = torch.distributions.Normal(shift.double(), scale.double())
    exact = law.log_prob(raw.double()).sum(1)
    found = torch.tensor(values(tmp_path / "likelihood"), dtype=torch.float64)
    assert (found.sort().values - exact.sort().values).abs().max() < SOLVED
    assert result.of == "density" and result.rows == 90
    assert result.nats == pytest.approx(float(exact.mean()), abs=SOLVED)
    assert result.bits_per_dim == pytest.approx(-result.nats / (3 * math.log(2)), rel=1e-12)
    assert result.nats_standard_error == pytest.approx(float(found.std() / math.sqrt(90)), rel=1e-9)
    assert result.solver_error < SOLVED
    assert "of the raw data's density" in str(result)


def bits(tmp_path, dequantize):
    """How far the sum of all rows is off, and how far it may be.

    Each row has the mean of log N over its bins but for its draw, whose variance is known; 5 deviations.
    """
    levels, dim, num = 16, 4, 100
    raw = torch.randint(levels, (num, dim), generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "raw.npy", raw.numpy())
    run = normal(tmp_path / "model.safetensors", dim, Scaling(levels / 2, levels / 4, levels))  # bins fill [−2, 2]
    options = {"levels": levels}
    result = likelihood(run, str(tmp_path / "raw.npy"), options, num, dequantize=dequantize, device="cpu", quiet=True)
    assert result.of == "bits/dim" and result.bits_per_dim == pytest.approx(-result.nats / (dim * math.log(2)))
    width, centre = 4 / levels, (raw + 0.5).double() * 4 / levels - 2
    mean = -0.5 * math.log(2 * math.pi) - 0.5 * (centre**2 + width**2 / 12) + math.log(width)
    variance = (4 * centre**2 * width**2 / 12 + width**4 * (1 / 80 - 1 / 144)) / 4
    allowed = 5 * math.sqrt(float(variance.sum())) + num * SOLVED
    return abs(sum(values(tmp_path / "likelihood")) - float(mean.sum())), allowed


@pytest.mark.parametrize("dequantize", ["uniform", "truncated_normal", "variational"])
def test_bits_of_levels(dequantize, tmp_path):
    off, allowed = bits(tmp_path, dequantize)  # the bins are narrow: a learned law is 0.005 nats a number from uniform
    assert off < allowed + (0.005 * 400 if dequantize == "variational" else 0)


def test_bins_of_another_scaling_would_be_seen(tmp_path, monkeypatch):
    monkeypatch.setattr(Scaling, "edges", property(lambda scaling: (-1.0, 1.0)))
    off, allowed = bits(tmp_path, "uniform")
    assert off > 5 * allowed


def test_a_row_depends_on_neither_the_number_nor_stops(tmp_path):
    np.save(tmp_path / "raw.npy", torch.randint(16, (150, 4), generator=torch.Generator().manual_seed(0)).numpy())
    run = normal(tmp_path / "model.safetensors", 4, Scaling.of_levels(16))

    def call(name, num):
        likelihood(run, str(tmp_path / "raw.npy"), {"levels": 16}, num, tmp_path / name, steps=8, quiet=True)
        return (tmp_path / name / "values.csv").read_bytes(), (tmp_path / name / "metrics.jsonl").read_bytes()

    whole = call("whole", 150)
    assert call("few", 5)[0] == b"\r\n".join(whole[0].split(b"\r\n")[:6]) + b"\r\n"
    assert call("few", 100)[0] == b"\r\n".join(whole[0].split(b"\r\n")[:101]) + b"\r\n"
    assert call("few", 150) == whole
    assert len(json.loads(whole[1])["by"]) == 16


def test_what_a_stop_kept_is_not_done_again(tmp_path, monkeypatch):
    np.save(tmp_path / "raw.npy", torch.randn(150, 2, generator=torch.Generator().manual_seed(0)).numpy())
    run = normal(tmp_path / "model.safetensors", 2, Scaling())
    asked = []

    def stopping(model, x, **options):
        asked.append(len(x))
        if len(asked) == 2:
            raise KeyboardInterrupt
        return log_prob(model, x, **options)

    monkeypatch.setattr(sys.modules["scoresde.runs.likelihood"], "log_prob", stopping)
    words = {"run": run, "data": str(tmp_path / "raw.npy"), "num": 150, "steps": 8, "quiet": True}
    with pytest.raises(KeyboardInterrupt):
        likelihood(**words)
    assert len(values(tmp_path / "likelihood")) == 64
    likelihood(**words)
    assert asked == [64, 64, 64, 22] and len(values(tmp_path / "likelihood")) == 150
    with pytest.raises(ValueError, match="other settings; name another folder"):
        likelihood(**{**words, "seed": 1})


def test_by_default_what_the_run_held_out(tmp_path):
    words = ["--data", "moons", "--data_options.n", "300", "--net", "MLP(width=8)", "--steps", "30", "--seed", "3"]
    assert main(["train", "--out", str(tmp_path), *words, "--held_out", "0.2", "--device", "cpu", "--quiet"]) == 0
    result = likelihood(tmp_path, num=1000, steps=10, device="cpu", quiet=True)
    held = data.load("moons", n=300).split(0.2, seed=3)[1]
    assert result.rows == len(held) == 60
    expected = log_prob(load(tmp_path), held.raw(torch.arange(60)), steps=10).value
    assert torch.allclose(torch.tensor(values(tmp_path / "likelihood")), expected, atol=1e-5)
    same = likelihood(tmp_path, "moons", {"n": 300}, 1000, tmp_path / "same", steps=10, device="cpu", quiet=True)
    assert same == result  # the run's own data by name
