from copy import deepcopy

import pytest
import torch

from scoresde import EDM, VE, VP, Count, Model, RectifiedFlow, SubVP, networks, sample
from scoresde.samplers import DDIM
from scoresde.testing import check_model
from tests.problems import MAIN, NAMES, mixture, name


def test_the_network_gets_one_time_for_each_sample_in_its_own_dtype():
    seen = []

    def net(x, t):
        seen.append((t.shape, t.dtype))
        return x

    for dtype in (torch.float32, torch.float64):
        model = Model(net, VP())
        model(torch.zeros(3, 2, dtype=dtype), 0.5)
        model(torch.zeros(3, 2, dtype=dtype), torch.tensor([0.1, 0.2, 0.3]))
        assert seen[-2:] == [(torch.Size([3]), dtype)] * 2


def test_wrap_follows_deepcopy_and_counts():
    model = Model(torch.nn.Bilinear(2, 1, 2), VP())
    twice = model.wrap(lambda model, x, t: 2 * model(x, t[:, None]))
    net = Model(_Linear(), VP())
    wrapped = net.wrap(lambda model, x, t: 2 * model(x, t))
    copy = deepcopy(wrapped)
    with torch.no_grad():
        copy.net.model.net.layer.weight.fill_(3.0)
        copy.net.model.net.layer.bias.zero_()
    x = torch.ones(2, 1)
    assert torch.equal(copy(x, 0.5), torch.full((2, 1), 6.0))  # calls its own weights
    assert not torch.equal(wrapped(x, 0.5), copy(x, 0.5))
    assert sum(p.numel() for p in copy.net.parameters()) == 2 and twice is not None
    count = Count()
    sample(mixture().model(VP()).wrap(count), (2, 2), DDIM(), 7)
    assert count.calls == 7


class _Linear(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, x, t):
        return self.layer(x)


def test_given_fills_in_conditions():
    model = Model(lambda x, t, scale=1.0, shift=0.0: scale * x + shift, VP())
    x = torch.ones(2, 3)
    assert torch.equal(model.given(scale=2.0)(x, 0.5), 2 * x)
    assert torch.equal(model.given(scale=2.0).given(shift=1.0)(x, 0.5, scale=3.0), 3 * x + 1)


@pytest.mark.parametrize("other", MAIN, ids=name)
@pytest.mark.parametrize("own", MAIN, ids=name)
def test_on_another_process_the_denoised_estimate_is_the_same_at_the_same_snr(own, other):
    target = mixture()
    x0, noise = torch.randn(2, 50, 2, dtype=torch.float64)
    for prediction in NAMES:
        model = target.model(own, prediction)
        moved = model.on(other)
        assert moved.process is other and moved.prediction == prediction
        for ratio in (0.02, 0.3, 2.0, 40.0):  # within what every one of them reaches
            logsnr = -2 * torch.tensor(ratio, dtype=torch.float64).log()
            t, s = float(own.time(logsnr)), float(other.time(logsnr))
            here = float(own.alpha(t)) * (x0 + ratio * noise)
            there = float(other.alpha(s)) * (x0 + ratio * noise)
            expected = model.predict("x0", here, t)
            # x0 from noise at σ/α = 40 multiplies rounding by 40, and times of t near t_max by a little more
            assert torch.allclose(moved.predict("x0", there, s), expected, rtol=1e-8, atol=1e-9)
            exact = target.model(other).predict("x0", there, s)
            assert torch.allclose(moved.predict("x0", there, s), exact, rtol=1e-8, atol=1e-9)


def test_on_keeps_each_samples_own_time():
    model = mixture().model(VP(), "v").on(RectifiedFlow())
    x, t = torch.randn(4, 2, dtype=torch.float64), torch.tensor([0.1, 0.5, 0.7, 0.9], dtype=torch.float64)
    together = model.predict("velocity", x, t)
    for i in range(4):
        assert torch.allclose(together[i : i + 1], model.predict("velocity", x[i : i + 1], float(t[i])), rtol=1e-10)


@pytest.mark.parametrize("process", [VP(), SubVP(), VE(), EDM(), RectifiedFlow()], ids=name)
def test_check_model_passes_a_healthy_one(process):
    check_model(mixture().model(process, "v"), torch.randn(8, 2, dtype=torch.float64))
    net = networks.Scaled(networks.MLP(2), process)
    torch.nn.init.normal_(net.net.leave.weight)
    check_model(Model(net, process), torch.randn(8, 2))


class _BatchNorm(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = torch.nn.BatchNorm1d(2)

    def forward(self, x, t):
        return self.norm(x) * t[:, None]


@pytest.mark.parametrize(
    ("net", "fault"),
    [
        (lambda x, t: x * 2, "ignores t"),
        (lambda x, t: x * 0, "zero everywhere"),
        (lambda x, t: x[:, :1] * t[:, None], "shape of x"),
        (lambda x, t: x * t[:, None] / 0, "not finite"),
        (lambda x, t: x * t[:, None] + torch.rand(()), "two calls"),
        (_BatchNorm(), "batch around it"),
    ],
)
def test_check_model_names_the_fault(net, fault):
    with pytest.raises(AssertionError, match=fault):
        check_model(Model(net, VP()), torch.randn(8, 2))
