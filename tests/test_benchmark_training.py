"""The benchmark of training: the loop by hand does the work of `fit`, and the table counts what it says."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from scoresde import VP, Model, fit, networks

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import benchmark_training


def small():
    torch.manual_seed(0)
    return networks.MLP((1, 4, 4), width=16, blocks=1).double()


def trained(steps=30):
    """The losses, weights and averaged weights of `fit` and of the loop by hand, from the same random numbers: data
    so large that gradients are clipped, batches across the ends of epochs.
    """
    data = 5 * torch.rand(50, 1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    ours, theirs = small(), small()
    torch.manual_seed(2)
    records = [(r.loss, r.model.net) for r in fit(Model(ours, VP(), "v"), data, steps, batch_size=16)]
    torch.manual_seed(2)
    rows = list(benchmark_training.loop(theirs, data, steps, 16, benchmark_training.by_hand))
    for net, found in ((ours, records), (theirs, rows)):
        weights = [p.detach().flatten() for each in (net, found[-1][1]) for p in each.parameters()]
        yield torch.cat([torch.stack([loss for loss, _ in found]), *weights])


def test_the_loop_by_hand_trains_as_fit_does():
    """In float64, to rounding that 30 steps of Adam have carried on."""
    ours, theirs = trained()
    assert (ours - theirs).abs().max() < 1e-8


@pytest.mark.parametrize(("name", "value"), [("CLIP", 1e9), ("DECAY", 0.5), ("RATE", 1.01e-3)])
def test_a_loop_that_did_less_would_be_seen(name, value, monkeypatch):
    monkeypatch.setattr(benchmark_training, name, value)
    ours, theirs = trained()
    assert (ours - theirs).abs().max() > 1e-6


def test_ratios_are_those_of_the_work(monkeypatch):
    """Time is the number of network calls so far: one a step by hand and in fit, three for a loss that asks thrice."""
    calls = []

    class Counted(networks.MLP):
        def forward(self, x, t):
            calls.append(1)
            return super().forward(x, t)

    def thrice(net):
        loss = benchmark_training.by_hand(net)
        return lambda x0: loss(x0) + loss(x0) + loss(x0)

    def missing():
        raise ImportError("No module named 'peer'")

    rivals = {"thrice": lambda: thrice, "scoresde loss": lambda: benchmark_training.ours, "peer": missing}
    monkeypatch.setattr(benchmark_training, "RIVALS", rivals)
    monkeypatch.setitem(benchmark_training.NETWORKS, "small", (lambda: Counted((1, 4, 4), width=8), 4))
    monkeypatch.setitem(benchmark_training.CLOCKS, "calls", lambda: float(len(calls)))
    rows = {row["training"]: row for row in benchmark_training.measure("small", clock="calls", rounds=2, block=3)}
    assert {key: row["ratio"] for key, row in rows.items()} == {
        "by hand": 1.0, "scoresde fit": 1.0, "thrice": 3.0, "scoresde loss": 1.0,
    }  # fmt: skip
    assert rows["thrice"]["least"] == rows["thrice"]["largest"] == rows["thrice"]["of_leasts"] == 3.0
    assert rows["scoresde fit"]["seconds"] == 1.0
    assert benchmark_training.losses()[1] == {"peer": "not installed (No module named 'peer')"}


@pytest.mark.parametrize("name", benchmark_training.RIVALS)
def test_a_network_of_zeros_has_the_loss_of_its_target(name):
    """1 for noise and v of data of unit variance, and for the latter 1/2 under denoising-diffusion-pytorch's weight,
    which is α² with a schedule symmetric in time; azula weighs x₀ by 1/σ². Squares of normal numbers have variance 2.
    """
    found, missing = benchmark_training.losses()
    if name in missing:
        pytest.skip(missing[name])

    class Zeros(nn.Module):
        shape = (1, 4, 4)

        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x, t):
            assert t.shape == x.shape[:1] and t.dtype == x.dtype
            return self.weight * x

    torch.manual_seed(1)
    loss = found[name](Zeros())
    mean = torch.stack([loss(torch.randn(64, 1, 4, 4)).detach() for _ in range(200)]).mean()
    if name == "azula SimpleDenoiser":
        assert mean > 10
    else:
        assert abs(mean - (0.5 if name.startswith("denoising") else 1.0)) < 5 * (2 / 200 / 1024) ** 0.5
