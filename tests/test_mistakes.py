"""Mistakes found in published likelihood codes: each is caught by a check that `log_prob` and sound code pass."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torchdiffeq import odeint

from scoresde import VP, Count, RectifiedFlow, bits_per_dim, log_prob, targets
from scoresde.divergence import Probes
from scoresde.flow import Flow
from scoresde.samplers import ODE
from tests.plain import Answer, plain, planted, standard_normal, units, with_products
from tests.problems import LIMIT, exact_flow, mixture

SOUND = pytest.mark.parametrize("likelihood", [log_prob, plain], ids=["log_prob", "plain"])


# ------------------------------------------------------------------------------------------- reversed integration


def off(likelihood):
    """Errors against the exact log-density of a mixture, (B,)."""
    target = mixture()
    x = target.sample(40, torch.Generator().manual_seed(1))
    return likelihood(target.model(RectifiedFlow(), "velocity"), x).value - target.log_prob(x)


@SOUND
def test_integration_forwards_is_exact(likelihood):
    assert off(likelihood).abs().max() < 5e-3


def test_reversed_integration_is_off_by_twice_the_integral():
    """log p = log prior + ∫div; with the other sign it misses 2∫div = 2(log p − log prior), which is large."""
    target = mixture()
    model, x = target.model(RectifiedFlow(), "velocity"), target.sample(40, torch.Generator().manual_seed(1))
    latent = log_prob(model, x).latent
    integral = target.log_prob(x) - standard_normal(latent)
    wrong = off(planted("reversed"))
    assert torch.allclose(wrong, -2 * integral, atol=2e-2)
    assert wrong.abs().mean() > 100 * 5e-3


# ------------------------------------------------------------------------------------------- the prior as N(0, I)


def test_the_prior_of_the_flows_end_is_the_datas():
    """For N(m, s²) the flow is known, so that the prior is all there is: N(0, 1) for it costs KL(p_T ‖ N(0, 1))."""
    target, process = targets.Gaussian(torch.tensor([0.8], dtype=torch.float64), 0.3), VP()
    x = target.sample(4000, torch.Generator().manual_seed(0))
    latent, end = exact_flow(target, process, x, 0.0, 1.0), target.marginal(process, 1.0)
    stretch = 0.5 * math.log(float(end.variances[0, 0] / target.variances[0, 0]))
    right, wrong = (prior.log_prob(latent) + stretch for prior in (end, targets.Gaussian(torch.zeros(1).double(), 1.0)))
    exact = target.log_prob(x)
    assert (right - exact).abs().max() < 1e-12
    assert (log_prob(target.model(process), x).value - exact).abs().max() < 1e-8
    mean, variance = float(end.means[0, 0]), float(end.variances[0, 0])
    gap = 0.5 * (variance + mean**2 - 1 - math.log(variance))
    miss = wrong - exact
    assert abs(float(miss.mean()) + gap) < LIMIT * float(miss.std()) / math.sqrt(len(x))
    assert miss.abs().max() > 1e-3  # at no tolerance does it go away:
    for tolerance in (1e-3, 1e-6):  # the same prior handed to log_prob is off by the same
        model = replace(target.model(process), moments=(torch.zeros(1), torch.ones(1)))
        loose = log_prob(model, x[:50], tolerance=tolerance).value - exact[:50]
        assert torch.allclose(loose, miss[:50], atol=10 * tolerance)


# ------------------------------------------------------------------------------------------------ half-counted NFE


def miscounted(likelihood, process=RectifiedFlow(), prediction="velocity", **options):  # noqa: B008
    """Calls that the network saw for one sample, over the calls reported."""
    count, target = Count(), mixture()
    model = target.model(process, prediction)
    if "moments" in options:
        model = replace(model, moments=options.pop("moments"))
    reported = likelihood(model.wrap(count), target.sample(1), **options).nfe
    return count.calls / reported


@pytest.mark.parametrize("options", [
    {}, {"process": VP(), "moments": None}, {"steps": 7}, {"divergence": "hutchinson", "probes": 3},
    {"tolerance": 1e-4}, {"nodes": 16}, {"solver": ODE("rk4"), "steps": 10}, {"solver": ODE("dopri5")},
], ids=str)  # fmt: skip
def test_every_call_is_counted(options):
    assert miscounted(log_prob, **options) == 1.0


def test_steps_counted_for_calls_are_seen():
    assert miscounted(plain) == 1.0
    assert miscounted(planted("steps for calls")) == 4.0


# ------------------------------------------------------------------------------------------------- coupled batches


def moved(likelihood):
    """How far, relatively, values of samples move when they are computed alone."""
    target = mixture()
    model, x = target.model(VP(), "v"), target.sample(6, torch.Generator().manual_seed(4))
    whole = likelihood(model, x).value
    alone = torch.cat([likelihood(model, x[i : i + 1]).value for i in range(6)])
    return float(((whole - alone) / whole).abs().max())


def coupled(model, x):
    """torchdiffeq's dopri5 with its own norm, over all samples together."""

    def slope(t, state):
        at = min(float(t), 1.0)
        value, rows = with_products(lambda z: model.predict("velocity", z, at), state[0], units(x))
        return value, rows.sum(0)

    times = torch.tensor([1e-3, 1.0], dtype=torch.float64)
    ends, logs = odeint(slope, (x, x.new_zeros(len(x))), times, rtol=1e-5, atol=1e-5, method="dopri5")
    return Answer(standard_normal(ends[-1]) + logs[-1], torch.zeros(len(x)), 0)


def test_a_sample_is_the_same_alone():
    assert moved(log_prob) < 1e-12


def test_a_step_size_for_the_whole_batch_is_seen():
    """Its steps, and so its errors of about the tolerance, are other ones in another batch."""
    assert moved(coupled) > 1e4 * 1e-12


# ------------------------------------------------------------------------------------- dequantization and its scale


LEVELS = torch.cartesian_prod(torch.arange(4), torch.arange(4))
WIDTH = 0.5


def narrow(deviation=0.05):
    """Two pixels of four levels as a density: three narrow modes at the centres of bins of [−1, 1]."""
    means = torch.tensor([[-0.75, 0.25], [0.25, 0.75], [0.75, -0.25]], dtype=torch.float64)
    return targets.GaussianMixture([0.5, 0.3, 0.2], means, deviation**2)


def implied(each):
    """Probabilities from bits a dimension: (16,)."""
    return 2.0 ** (-2 * each)


def exactly(target):
    """Those of the density over the bins, by quadrature."""
    inner = (torch.arange(60, dtype=torch.float64) + 0.5) / 60
    places = torch.cartesian_prod(inner, inner)
    return torch.stack([target.log_prob(-1 + WIDTH * (k + places)).exp().mean() * WIDTH**2 for k in LEVELS])


def density_of(target, scale=1.0):
    """The exact log-density of `target` scaled by 1/scale; with its change of variables forgotten if that is not 1."""
    return lambda model, x, generator=None: target.log_prob(x / scale)


def test_dequantized_probabilities_sum_to_one_at_most():
    """Each is unbiased, so that the sum of all is Σ P ≤ 1, within four standard errors of 20 repeats."""
    target, totals = narrow(), []
    for seed in range(20):
        bits = bits_per_dim(
            target.model(VP()), LEVELS, 4, samples=64, density=density_of(target),
            generator=torch.Generator().manual_seed(seed),
        )  # fmt: skip
        totals.append(float(implied(bits.each).sum()))
    assert np.mean(totals) < 1 + LIMIT * np.std(totals, ddof=1) / math.sqrt(20)
    assert exactly(target).sum() == pytest.approx(1.0, abs=1e-6)


def test_forgotten_dequantization_is_seen():
    """A density at a bin's centre, times its area, is P w²/(2π s²): 16 times too much, and the narrower the worse."""
    for deviation in (0.1, 0.05):
        target = narrow(deviation)
        centres = -1 + WIDTH * (LEVELS + 0.5)
        total = float((target.log_prob(centres).exp() * WIDTH**2).sum())
        assert total == pytest.approx(WIDTH**2 / (2 * math.pi * deviation**2), rel=1e-2)
        assert total > 3


def scale_off(likelihood, scale):
    """Mean difference, in bits a dimension, of data scaled by `scale` from the exact probabilities."""
    target = narrow(0.3)
    wide = targets.GaussianMixture(target.weights, scale * target.means, (scale * 0.3) ** 2)
    bits = bits_per_dim(
        wide.model(VP()), LEVELS, 4, samples=256, low=-scale, high=scale, density=likelihood(target, wide),
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    return float((bits.each + exactly(target).log2() / 2).mean())


def test_the_scale_of_the_data_is_accounted_for():
    """The mean of 256 densities is within 0.02 bits of the integral; a forgotten D log c is off by log2 c."""
    right, wrong = (
        lambda target, wide: density_of(wide),
        lambda target, wide: lambda model, x, generator=None: target.log_prob(x / 127.5),
    )
    assert abs(scale_off(right, 127.5)) < 0.02
    assert scale_off(wrong, 127.5) == pytest.approx(-math.log2(127.5), abs=0.02)


def test_log_prob_follows_a_change_of_scale():
    """log p(cx) = log p(x) − D log c, which the standardised coordinates must give back."""
    target, c = mixture(), 127.5
    wide = targets.GaussianMixture(target.weights, c * target.means, c**2 * target.covariances)
    x = target.sample(20, torch.Generator().manual_seed(0))
    one, two = (log_prob(t.model(RectifiedFlow()), y, tolerance=1e-4) for t, y in ((target, x), (wide, c * x)))
    assert torch.allclose(one.value - two.value, torch.full((20,), 2 * math.log(c)).double(), atol=1e-3)


# ------------------------------------------------------------------------------------ the same in log_prob's own code


def test_a_reversed_divergence_in_log_prob_is_seen(monkeypatch):
    sound = Probes.of

    def reversed_(self, field, z):
        value, products = sound(self, field, z)
        return value, -products

    monkeypatch.setattr(Probes, "of", reversed_)
    assert off(log_prob).abs().mean() > 100 * 5e-3


def test_a_forgotten_volume_in_log_prob_is_seen(monkeypatch):
    """Coordinates in units of the data's standard deviations s cost Σ log s."""
    sound, volume = off(log_prob), 0.5 * float(torch.logdet(mixture().moments[1]))
    monkeypatch.setattr(Flow, "log_volume", lambda self, t, dim: 0.0)
    assert torch.allclose(off(log_prob) - sound, torch.full((40,), volume).double(), atol=1e-9)
    assert abs(volume) > 10 * 5e-3
