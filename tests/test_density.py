"""The error control of log_prob, its prior and truncation, probes, gradients, and densities of samples."""

import math
from dataclasses import replace

import pytest
import torch

from scoresde import (
    EDM,
    VE,
    VP,
    Count,
    Model,
    RectifiedFlow,
    decode,
    encode,
    interpolate,
    log_prob,
    networks,
    round_trip,
    sample,
    targets,
)  # fmt: skip
from scoresde.divergence import Probes
from tests.problems import LIMIT, gaussian, mixture, name


def apart():
    """Ten anisotropic modes in 16 dimensions."""
    generator = torch.Generator().manual_seed(3)
    axes = torch.linalg.qr(torch.randn(10, 16, 16, generator=generator, dtype=torch.float64))[0]
    widths = torch.logspace(math.log10(0.05), math.log10(0.5), 16, dtype=torch.float64)
    means = 0.7 * torch.randn(10, 16, generator=generator, dtype=torch.float64)
    return targets.GaussianMixture(torch.ones(10), means, (axes * widths**2) @ axes.mT)


@pytest.mark.parametrize("target", [mixture(), apart()], ids=["plane", "16-D"])
def test_the_error_falls_with_the_tolerance_and_its_estimate_covers_it(target):
    """From 1e-3 to 1e-8 nats a dimension: within the tolerance, and no more than a hundred times below it."""
    x, model = target.sample(40, torch.Generator().manual_seed(0)), target.model(RectifiedFlow())
    exact, covered = target.log_prob(x), []
    for digits in range(3, 9):
        tolerance = 10.0**-digits * target.dim
        result = log_prob(model, x, 100, tolerance=tolerance)
        error = (result.value - exact).abs()
        assert result.converged.all() and (result.error <= 1.5 * tolerance).all()
        assert tolerance / 200 < float(error.mean()) < tolerance
        covered.append((error <= result.error).double().mean())
    assert float(torch.stack(covered).mean()) >= 0.95


def test_calls_are_those_the_network_sees():
    x, model = mixture().sample(1), mixture().model(VP())
    for settings in ({}, {"prior": "model"}, {"nodes": 16}, {"t": 0.3}):
        count = Count()
        result = log_prob(model.wrap(count), x, **settings)
        assert result.nfe == count.calls, settings
        assert result.divergences == (17 if "nodes" in settings else result.nfe)


def test_nodes_take_the_divergence_at_few_places():
    target, x = gaussian(), gaussian().sample(20)
    model = replace(target.model(VP()), moments=None)
    result = log_prob(model, x, nodes=32)
    assert (result.value - target.log_prob(x)).abs().max() < 2e-3 and result.divergences < 40 < result.nfe


@pytest.mark.parametrize("process", [VP(), EDM(), VE()], ids=name)
def test_the_prior_is_named_and_its_gap_is_the_difference_to_the_naive_one(process):
    target = mixture()
    x, exact = target.sample(30), target.log_prob
    known = log_prob(target.model(process), x)
    unknown = log_prob(replace(target.model(process), moments=None), x)
    naive = log_prob(target.model(process), x, prior="standard")
    assert (known.prior, unknown.prior, naive.prior) == ("moments", "model", "standard")
    assert torch.allclose(known.value - known.prior_gap, naive.value, atol=1e-9)
    level = torch.hypot(process.alpha(process.t_max), process.sigma(process.t_max))
    true = target.marginal(process, process.t_max).log_prob(known.latent)
    gap = true - torch.distributions.Normal(0.0, level).log_prob(known.latent).sum(1)
    assert torch.allclose(known.prior_gap, gap, atol=2e-4)
    assert (naive.value - exact(x)).abs().mean() > 10 * (known.value - exact(x)).abs().mean()


def test_a_thin_density_is_told_of():
    """With a standard deviation of 0.003, thrice σ/α at t_min, the stretch below counts, and is accounted for."""
    target = targets.Gaussian(torch.zeros(2, dtype=torch.float64), torch.tensor([9e-6, 1.0]).double())
    x, model = target.sample(20), replace(target.model(VP()), moments=None)
    result = log_prob(model, x)
    assert result.truncation.abs().max() > 0.02
    assert ((result.value - target.log_prob(x)).abs() < 5e-3).all()


def test_densities_at_a_time():
    target, process = mixture(), VP()
    noised = target.marginal(process, 0.4)
    x = noised.sample(20)
    assert (log_prob(target.model(process), x, t=0.4).value - noised.log_prob(x)).abs().max() < 1e-3


@pytest.mark.parametrize("kind, count", [("hutchinson", 16), ("gaussian", 16), ("orthogonal", 6), ("hutch++", 24)])
def test_probes_are_unbiased_with_an_honest_standard_error(kind, count):
    """Of 4,000 estimates of one trace, Student's 95 % interval holds the truth for 93 to 97 % (± 0.7 % by chance)."""
    generator = torch.Generator().manual_seed(0)
    matrix = torch.randn(12, 12, generator=generator, dtype=torch.float64) / 4
    z = torch.zeros(4000, 12, dtype=torch.float64)
    probes = Probes.draw(kind, count, z, generator)
    _, found = probes.of(lambda z: z @ matrix.mT, z)
    score = (found.mean(1) - matrix.trace()) / probes.standard_error(found)
    limit = torch.distributions.StudentT(probes.columns - 1.0)
    inside = (score.abs() < _quantile(limit.df)).double().mean()
    assert 0.93 < float(inside) < 0.97
    off = found.mean(1) - matrix.trace()
    assert abs(float(off.mean())) < LIMIT * float(off.std()) / math.sqrt(len(z))
    resampled = probes.standard_error(found.sum(1, keepdim=True).expand(-1, found.shape[1]))  # not averaged: no spread
    assert float(resampled.max()) < 1e-6


def _quantile(degrees):
    from scipy.stats import t

    return float(t.ppf(0.975, float(degrees)))


def test_orthogonal_probes_and_hutchpp_are_exact_where_they_should_be():
    matrix = torch.randn(6, 6, dtype=torch.float64)
    z = torch.zeros(3, 6, dtype=torch.float64)
    whole = Probes.draw("orthogonal", 6, z, None)
    assert torch.allclose(whole.of(lambda z: z @ matrix.mT, z)[1].mean(1), matrix.trace().expand(3))
    assert (whole.standard_error(torch.rand(3, 6)) == 0).all()
    low = torch.randn(6, 2, dtype=torch.float64) @ torch.randn(2, 6, dtype=torch.float64)
    sketch = Probes.draw("hutch++", 9, z, None)
    assert torch.allclose(sketch.of(lambda z: z @ low.mT, z)[1], low.trace().expand(3, 3))


def test_intervals_of_log_prob_hold_the_truth():
    target = targets.Empirical(torch.randn(20, 6, dtype=torch.float64), 0.5)
    model, x = target.model(VP(), "v"), target.sample(150, torch.Generator().manual_seed(0))
    result = log_prob(model, x, divergence="hutchinson", probes=8, generator=torch.Generator().manual_seed(1))
    low, high = result.interval(0.95)
    inside = float(((low <= target.log_prob(x)) & (target.log_prob(x) <= high)).double().mean())
    assert inside > 0.95 - LIMIT * math.sqrt(0.95 * 0.05 / 150)
    assert result.standard_error.min() > 0


@pytest.mark.parametrize("process", [VP(), RectifiedFlow()], ids=name)
@pytest.mark.parametrize("moments", [True, False])
def test_gradients_in_x_directly_and_by_adjoint_are_the_score(process, moments):
    target, model = mixture(), mixture().model(process, "v")
    model = model if moments else replace(model, moments=None)
    x = target.sample(5).requires_grad_()
    (score,) = torch.autograd.grad(target.log_prob(x).sum(), x)
    for gradient in ("direct", "adjoint"):
        value = log_prob(model, x, tolerance=1e-6, gradient=gradient).value
        (found,) = torch.autograd.grad(value.sum(), x)
        assert torch.allclose(found, score, atol=1e-4)


class Smooth(torch.nn.Module):
    """The noise of N(0, 1) data, and a little more that fades at both ends."""

    def __init__(self):
        super().__init__()
        self.a, self.b = (torch.nn.Parameter(torch.randn(2, 2, dtype=torch.float64) / 2) for _ in "ab")

    def forward(self, x, t):
        alpha, sigma = (c(t.double())[:, None] for c in (VP().alpha, VP().sigma))
        return sigma * x + 0.5 * alpha**2 * sigma * torch.tanh(x @ self.a) @ self.b


def test_gradients_in_parameters_directly_and_by_adjoint_agree():
    net, x, weight = Smooth(), torch.randn(4, 2, dtype=torch.float64), torch.rand(4, dtype=torch.float64)
    found = []
    for gradient in ("direct", "adjoint"):
        value = log_prob(Model(net, VP(), moments=(0.0, 1.0)), x, tolerance=1e-7, gradient=gradient).value
        found.append(torch.autograd.grad((weight * value).sum(), [net.a, net.b]))
    step = 1e-5
    for one, two, parameter in zip(*found, (net.a, net.b)):
        assert torch.allclose(one, two, atol=1e-5)
        with torch.no_grad():
            parameter[0, 1] += step
            up = log_prob(Model(net, VP(), moments=(0.0, 1.0)), x, tolerance=1e-8).value
            parameter[0, 1] -= 2 * step
            down = log_prob(Model(net, VP(), moments=(0.0, 1.0)), x, tolerance=1e-8).value
            parameter[0, 1] += step
        assert float(one[0, 1]) == pytest.approx(float((weight * (up - down)).sum()) / (2 * step), abs=1e-3)


def test_gradients_through_a_network_with_layer_norm_are_those_of_differences():
    """torch.nn.LayerNorm under forward mode has a wrong gradient (torch 2.13); ours is written out."""
    net, x = networks.Scaled(networks.MLP(2, width=8, blocks=1), VP()).double(), torch.randn(3, 2, dtype=torch.float64)
    torch.nn.init.normal_(net.net.leave.weight, std=0.3)
    probes = Probes(2)

    def value():
        return probes.of(lambda z: net(z, torch.full((3,), 0.5, dtype=torch.float64)), x)[1].sum()

    weight, step = net.net.enter.weight, 1e-5
    (found,) = torch.autograd.grad(value(), weight)
    with torch.no_grad():
        weight += step
        up = value()
        weight -= 2 * step
        down = value()
    assert float(found.sum()) == pytest.approx(float(up - down) / (2 * step), abs=1e-6)


def test_the_adjoint_needs_no_memory_that_grows_with_the_steps():
    net, x = Smooth(), torch.randn(2, 2, dtype=torch.float64)
    for gradient in ("direct", "adjoint"):
        saved = 0

        def pack(tensor):
            nonlocal saved
            saved += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            log_prob(Model(net, VP(), moments=(0.0, 1.0)), x, gradient=gradient)
        assert (saved > 1000) if gradient == "direct" else (saved < 40)


@pytest.mark.parametrize("moments", [True, False])
def test_samples_come_with_their_density(moments):
    target, model = mixture(), mixture().model(RectifiedFlow())
    model = model if moments else replace(model, moments=None)
    x, result = sample(model, (60, 2), steps=40, log_prob=True, seeds=range(60))
    error = (result.value - target.log_prob(x)).abs()
    assert float((error <= result.error).double().mean()) >= 0.95 and error.max() < 1e-2
    assert torch.allclose(encode(model, x, steps=200), result.latent, atol=2e-3)
    alone, _ = sample(model, (3, 2), steps=40, log_prob=True, seeds=range(3))
    assert torch.allclose(alone, x[:3], rtol=1e-12)


def test_latents_go_there_and_back_and_between():
    model, x = mixture().model(VP()), mixture().sample(6)
    assert (round_trip(model, x, steps=200) < 1e-4).all() and (round_trip(model, x, steps=10) > 1e-4).any()
    assert torch.allclose(decode(model, encode(model, x, steps=200), steps=200), x, atol=1e-3)
    target = gaussian()
    ends = target.sample(2)
    line = interpolate(target.model(VP()), ends[:1], ends[1:], 5)
    assert torch.allclose(line[[0, -1], 0], ends, atol=1e-6)
    white = (line[:, 0] - target.moments[0]) @ torch.linalg.inv(torch.linalg.cholesky(target.moments[1])).mT
    turns = torch.nn.functional.cosine_similarity(white[1:], white[:-1])
    assert torch.allclose(turns, turns[:1].expand(4), atol=1e-6)  # equal angles on the sphere of a Gaussian's latents


def test_classes_by_bayes():
    """p(y | x) ∝ p(x | y) p(y), each p(x | y) a likelihood of the conditional model."""
    one, two = (targets.Gaussian(torch.tensor([m, 0.0]).double(), 0.5) for m in (-1.0, 1.0))
    process = VP()

    def net(x, t, label):
        answers = [target.model(process)(x, t) for target in (one, two)]
        return torch.where((label == 0)[:, None], *answers)

    model, x = Model(net, process), one.sample(8)
    joint = [log_prob(model.given(label=torch.full((8,), y)), x).value + math.log(0.5) for y in (0, 1)]
    found = torch.stack(joint).softmax(0)
    exact = torch.stack([one.log_prob(x), two.log_prob(x)]).softmax(0)
    assert torch.allclose(found, exact, atol=1e-3)


def test_networks_get_a_density_in_single_precision():
    net = networks.Scaled(networks.MLP((3, 3), width=16), VP())
    torch.nn.init.normal_(net.net.leave.weight, std=0.05)
    result = log_prob(Model(net, VP(), "v"), torch.randn(4, 3, 3))
    assert result.value.dtype == torch.float32 and (result.error < 0.1).all()


def test_wrong_input_is_named():
    model, x = mixture().model(VP()), mixture().sample(4)
    with pytest.warns(UserWarning, match="x looks discrete"):
        log_prob(Model(lambda x, t: torch.zeros_like(x), VP()), torch.randint(0, 16, (30, 4, 4)).double() / 8 - 1)
    for settings, match in [
        ({"probes": 0}, "probes"), ({"divergence": "trace"}, "divergence"), ({"tolerance": 0.0}, "tolerance"),
        ({"prior": "flat"}, "prior"), ({"nodes": 2}, "nodes"), ({"gradient": "both"}, "gradient"), ({"t": 2.0}, "t"),
        ({"divergence": "hutch++", "probes": 2}, "probes"), ({"divergence": "orthogonal", "probes": 3}, "probes"),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=match):
            log_prob(model, x, **settings)
    with pytest.raises(ValueError, match="moments"):
        log_prob(replace(model, moments=None), x, prior="moments")
    with pytest.raises(ValueError, match="log_prob=True needs"):
        sample(model, (2, 2), log_prob=True, trajectory=True)
    with pytest.raises(TypeError, match=r"'label'; write model.given"):
        log_prob(Model(lambda x, t, label: x, VP()), x)
    with pytest.raises(TypeError, match="solver"):
        log_prob(model, x, solver="rk4")
