"""log_prob against exact densities, and densities that must integrate to one whether exact or not."""

import math
from dataclasses import replace

import pytest
import torch

from scoresde import EDM, VE, VP, Model, RectifiedFlow, bits_per_dim, encode, log_prob, networks, sample, targets
from scoresde.samplers import ODE, Adams
from tests.problems import LIMIT, MAIN, NAMES, PROCESSES, gaussian, mixture, name


@pytest.mark.parametrize("process", [p for p in PROCESSES if p.t_min < 0.1 * p.t_max], ids=name)
def test_log_prob_is_the_exact_one_for_every_process(process):
    """Within 1e-3 nats a dimension for every one of 200 points."""
    target = mixture()
    x = target.sample(200, torch.Generator().manual_seed(1))
    result = log_prob(target.model(process), x, steps=64)
    error = (result.value - target.log_prob(x)).abs() / 2
    assert error.max() < 1e-3 and error.mean() < 1e-4
    assert (result.standard_error == 0).all() and result.nfe <= 200  # 64 + 32 for most
    assert (result.error / 2 >= error).double().mean() > 0.9  # the solver's own estimate covers it


@pytest.mark.parametrize("prediction", NAMES)
def test_log_prob_does_not_depend_on_the_prediction(prediction):
    target, x = mixture(), mixture().sample(50)
    one, two = (log_prob(target.model(VP(), p), x).value for p in (prediction, "v"))
    assert torch.allclose(one, two, atol=1e-6)


@pytest.mark.parametrize("process", [VP(), VE(), RectifiedFlow()], ids=name)
@pytest.mark.parametrize("solver", [ODE("dopri5", 1e-7, 1e-7), ODE("rk4"), Adams(2), Adams(3)], ids=repr)
def test_solvers_agree(solver, process):
    target, x = mixture(), mixture().sample(50, torch.Generator().manual_seed(2))
    error = (log_prob(target.model(process), x, 100, solver=solver).value - target.log_prob(x)).abs().max() / 2
    assert error < {"dopri5": 1e-4, "rk4": 2e-4}.get(getattr(solver, "method", ""), 2e-3)


@pytest.mark.parametrize("process", MAIN, ids=name)
def test_a_gaussian_is_exact_in_two_steps(process):
    target, x = gaussian(), gaussian().sample(20)
    result = log_prob(target.model(process), x, steps=2)
    assert torch.allclose(result.value, target.log_prob(x), atol=1e-8)
    assert (result.error < 1e-8).all()


def test_the_latent_is_the_encoding_and_decodes():
    model, x = mixture().model(VP()), mixture().sample(20)
    latent = log_prob(model, x, steps=300).latent
    assert torch.allclose(latent, encode(model, x, steps=300), atol=1e-5)
    assert torch.allclose(sample(model, x=latent, steps=300), x, atol=1e-4)


def test_without_moments_the_prior_is_off_by_what_it_should():
    """For N(m, s²) the flow is exact, so that the error is the prior's alone: N(0, 1) for N(αm, α²s² + σ²)."""
    target = targets.Gaussian(torch.tensor([0.8], dtype=torch.float64), 0.3)
    process, x = VP(), torch.linspace(-0.5, 2, 9, dtype=torch.float64)[:, None]
    model = replace(target.model(process), moments=None)
    got = log_prob(model, x, solver=ODE("dopri8", 1e-10, 1e-10))
    prior = targets.Gaussian(torch.zeros(1, dtype=torch.float64), 1.0)
    off = prior.log_prob(got.latent) - target.marginal(process, 1.0).log_prob(got.latent)
    assert off.abs().max() > 1e-3
    assert torch.allclose(got.value - target.log_prob(x), off, atol=1e-7)


class Wiggle(torch.nn.Module):
    """The noise of N(0, 0.49 I) data plus a smooth wiggle that fades at both ends: the exact score of nothing."""

    def __init__(self, process, dim):
        super().__init__()
        generator = torch.Generator().manual_seed(dim)
        self.process = process
        self.a = torch.nn.Parameter(torch.randn(dim, 8, generator=generator).double())
        self.b = torch.nn.Parameter(torch.randn(8, dim, generator=generator).double() / 4)

    def forward(self, x, t):
        alpha, sigma = (c(t.double())[:, None] for c in (self.process.alpha, self.process.sigma))
        level = (0.49 * alpha**2 + sigma**2).sqrt()
        wiggle = torch.tanh(x / level @ self.a + 1) @ self.b
        return sigma * x / level**2 + (alpha / level) ** 2 * sigma / level * wiggle


@pytest.mark.parametrize("process", [VP(), VE(), EDM(), RectifiedFlow()], ids=name)
def test_any_models_density_integrates_to_one_in_one_dimension(process):
    for model in (
        targets.GaussianMixture([0.3, 0.7], torch.tensor([[-1.0], [0.5]]).double(), 0.05).model(process),
        Model(Wiggle(process, 1), process, "noise", (0.0, 0.7)),
    ):
        x = torch.linspace(-5, 5, 2001, dtype=torch.float64)[:, None]
        density = log_prob(model, x, steps=80).value.exp()
        assert float(torch.trapezoid(density, x[:, 0])) == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("process", [VP(), RectifiedFlow()], ids=name)
def test_any_models_density_integrates_to_one_in_two_dimensions(process):
    axis = torch.linspace(-4.5, 4.5, 121, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    for model in (mixture().model(process), Model(Wiggle(process, 2), process, "noise", (0.0, 0.7))):
        density = log_prob(model, x, steps=60).value.exp().reshape(121, 121)
        assert float(torch.trapezoid(torch.trapezoid(density, axis), axis)) == pytest.approx(1.0, abs=2e-3)


def test_a_sample_does_not_depend_on_its_batch():
    model, x = mixture().model(VP()), mixture().sample(30)
    whole = log_prob(model, x).value
    alone = torch.cat([log_prob(model, x[i : i + 1]).value for i in range(30)])
    assert (whole - alone).abs().max() < 1e-12 * whole.abs().max()


def test_the_divergence_in_pieces_is_the_same(monkeypatch):
    model, x = mixture().model(VP()), mixture().sample(30)
    whole = log_prob(model, x).value
    monkeypatch.setattr("scoresde.likelihood.ode.ROWS", 30)
    assert torch.allclose(log_prob(model, x).value, whole, rtol=1e-12)


def test_images_and_other_shapes():
    target = targets.Empirical(torch.rand(30, 3, 4).double(), 0.3)
    x = target.sample(6).reshape(6, 3, 4)
    result = log_prob(target.model(VP()), x, steps=60)
    assert result.latent.shape == x.shape
    assert torch.allclose(result.value, target.log_prob(x.flatten(1)), atol=2e-2)
    assert log_prob(targets.Gaussian([0.0], 1.0).model(VP()), torch.zeros(3, 1)).value.dtype == torch.float32


@pytest.mark.slow
def test_hutchinsons_estimate_is_unbiased_and_its_error_is_what_it_says():
    """With 32 probes, the exact value lies within 2.04 standard errors (Student, 31 degrees) for 95 % of 600 points."""
    target = targets.Empirical(torch.randn(20, 6, dtype=torch.float64), 0.5)
    model, x = target.model(VP(), "v"), target.sample(600, torch.Generator().manual_seed(0))
    exact = log_prob(model, x, 24).value
    generator = torch.Generator().manual_seed(1)
    rough = log_prob(model, x, 24, divergence="hutchinson", probes=32, generator=generator)
    score = (rough.value - exact) / rough.standard_error
    assert abs(float((score.abs() < 2.04).double().mean()) - 0.95) < LIMIT * math.sqrt(0.95 * 0.05 / 600)
    assert abs(float(score.mean())) < LIMIT * float(score.std()) / math.sqrt(600)


def test_hutchinson_is_exact_for_an_isotropic_jacobian_and_repeats():
    model = targets.Gaussian(torch.zeros(5, dtype=torch.float64), 0.2).model(VP())
    x = torch.randn(7, 5, dtype=torch.float64)
    one = log_prob(replace(model, moments=None), x, divergence="hutchinson", probes=2)
    assert (one.standard_error < 1e-10).all()
    assert torch.allclose(one.value, log_prob(replace(model, moments=None), x).value, atol=1e-8)
    alone = log_prob(
        mixture().model(VP()), x[:, :2], divergence="hutchinson", generator=torch.Generator().manual_seed(0)
    )
    again = log_prob(
        mixture().model(VP()), x[:, :2], divergence="hutchinson", generator=torch.Generator().manual_seed(0)
    )
    assert torch.equal(alone.value, again.value) and torch.isinf(alone.standard_error).all()


@pytest.mark.parametrize("steps", [8, 16, 32])
@pytest.mark.parametrize("solver", [Adams(), Adams(2), Adams(3), ODE("rk4")], ids=repr)
def test_the_estimated_error_is_never_far_below_the_true_one(solver, steps):
    target, x = mixture(), mixture().sample(100)
    result = log_prob(target.model(RectifiedFlow()), x, steps, solver=solver)
    true = (result.value - target.log_prob(x)).abs()
    assert float(result.error.mean()) > 0.3 * float(true.mean())
    assert float((result.error >= 0.3 * true).double().mean()) > 0.8


@pytest.mark.parametrize("process", MAIN, ids=name)
def test_by_default_the_worst_of_many_points_is_good(process):
    """Points on the watershed between modes, where the flow expands most, get more steps; the others do not."""
    target = mixture()
    x = target.sample(500, torch.Generator().manual_seed(0))
    result = log_prob(target.model(process), x)
    error = (result.value - target.log_prob(x)).abs() / 2
    assert error.max() < 1e-3 and result.nfe < 200


def test_conditions_of_single_samples_stay_with_them():
    shifts = torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]
    base = mixture().model(VP(), "x0")  # data moved by a shift: x₀ and x_t move by it and by α times it

    def moved(model, x, t, shift):
        return shift + model(x - VP().alpha(t)[:, None] * shift, t)

    model = replace(base.wrap(moved).given(shift=shifts), moments=None)
    x = mixture().sample(9) + shifts
    result = log_prob(model, x, 8, tolerance=0.05)  # so that some samples are integrated again
    assert (result.value - mixture().log_prob(x - shifts)).abs().max() < 0.1


def test_tolerance_doubles_the_steps_and_warns_of_samples_it_left_behind():
    model, x = mixture().model(VP()), mixture().sample(10)
    loose, tight = (log_prob(model, x, 10, tolerance=t) for t in (3.0, 3e-3))
    assert loose.nfe < tight.nfe and (tight.error <= 3e-3).all()
    with pytest.warns(UserWarning, match=r"did not reach tolerance=1e-12 for samples \["):
        log_prob(model, x, 2, tolerance=1e-12)


def test_gradient_in_x_is_the_score():
    target = gaussian()
    x = target.sample(5).requires_grad_()
    (grad,) = torch.autograd.grad(log_prob(target.model(VP()), x, steps=8).value.sum(), x)
    (score,) = torch.autograd.grad(target.log_prob(x).sum(), x)
    assert torch.allclose(grad, score, atol=1e-8)


def test_a_network_without_forward_derivatives_is_named():
    class Opaque(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return 2 * x

    with pytest.raises(ValueError, match="net cannot be differentiated forwards"):
        log_prob(Model(lambda x, t: Opaque.apply(x), VP()), torch.zeros(2, 2))


def test_empty_batch():
    assert log_prob(mixture().model(VP()), torch.zeros(0, 2)).value.shape == (0,)


def test_networks_work_too():
    net = networks.Scaled(networks.MLP((3, 3), width=16), VP())
    torch.nn.init.normal_(net.net.leave.weight, std=0.1)
    x = torch.randn(4, 3, 3)
    exact, rough = (log_prob(Model(net, VP(), "v"), x, divergence=d, probes=64).value for d in ("exact", "hutchinson"))
    assert torch.allclose(exact, rough, atol=2.0)


def test_bits_per_dim_is_a_bound_that_tightens():
    """Two pixels of four levels: exact probabilities by quadrature of the density over each bin."""
    target = targets.GaussianMixture([0.4, 0.6], torch.tensor([[-0.5, 0.3], [0.4, -0.2]]).double(), 0.1)
    model = target.model(VP(), "v")
    levels = torch.cartesian_prod(torch.arange(4), torch.arange(4))
    inner = (torch.arange(40, dtype=torch.float64) + 0.5) / 40
    offsets = torch.cartesian_prod(inner, inner)
    mass = torch.stack([target.log_prob(-1 + 0.5 * (k + offsets)).exp().mean() * 0.25 for k in levels])
    exact = -mass.log2() / 2
    totals = []
    for samples in (1, 64):
        bits = bits_per_dim(model, levels, 4, samples=samples, steps=24, generator=torch.Generator().manual_seed(0))
        assert bits.each.shape == (16,) and bits.value == pytest.approx(float(bits.each.mean()))
        totals.append(float((bits.each - exact).mean()))
    assert -0.02 < totals[1] < totals[0]  # a bound in expectation; 64 draws leave 0.02 of chance
    assert totals[1] < 0.05


def test_bits_per_dim_tracks_the_scale():
    model = targets.Gaussian(torch.zeros(1, dtype=torch.float64), 0.5).model(VP())
    wide = targets.Gaussian(torch.full((1,), 5.0, dtype=torch.float64), 12.5).model(VP())
    levels = torch.arange(8)[:, None]
    one = bits_per_dim(model, levels, 8, generator=torch.Generator().manual_seed(0))
    two = bits_per_dim(wide, levels, 8, low=0.0, high=10.0, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(one.each, two.each, atol=1e-8)
