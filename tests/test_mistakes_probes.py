"""Mistakes with probes: unaveraged ones, and ones drawn anew along the path; `log_prob` and sound code pass."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torchdiffeq import odeint

from scoresde import RectifiedFlow, log_prob, targets
from scoresde.divergence import Probes
from tests.plain import plain, planted, signs, standard_normal, units, with_products
from tests.problems import LIMIT

SOUND = pytest.mark.parametrize("likelihood", [log_prob, plain], ids=["log_prob", "plain"])


def blob():
    """A kernel density in 6 dimensions, whose Jacobians are far from diagonal."""
    return targets.Empirical(torch.randn(20, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(2)), 0.5)


POINTS = 400


def probed(likelihood, probes):
    """Errors of Hutchinson's estimate against the same code with the exact divergence, and its standard errors."""
    target = blob()
    model, x = target.model(RectifiedFlow(), "velocity"), target.sample(POINTS, torch.Generator().manual_seed(0))
    options = {"divergence": "hutchinson", "probes": probes, "generator": torch.Generator().manual_seed(1)}
    result = likelihood(model, x, **options)
    return result.value - likelihood(model, x, divergence="exact").value, result.standard_error


STUDENT = 2.131
"""Of 15 degrees of freedom: 16 probes' mean lies within as many standard errors 95 % of the time."""


def covered(likelihood):
    error, standard = probed(likelihood, 16)
    return float((error.abs() < STUDENT * standard).double().mean())


CHANCE = LIMIT * math.sqrt(0.95 * 0.05 / POINTS)


@pytest.mark.slow
@SOUND
def test_averaged_probes_err_as_they_say(likelihood):
    assert abs(covered(likelihood) - 0.95) < CHANCE
    one, many = (float(probed(likelihood, k)[0].square().mean()) for k in (1, 16))
    assert one / many == pytest.approx(16, rel=LIMIT * math.sqrt(2 * 2 / POINTS))


def test_the_last_probe_alone_errs_more_than_it_says():
    """Its error is √16 times the standard error of the mean: P(|N(0, 1)| < 2.131/4) = 0.41 of the points."""
    share = math.erf(STUDENT / 4 / math.sqrt(2))
    assert abs(covered(planted("last")) - share) < 0.1 < 0.95 - CHANCE - share - 0.1


def test_summed_probes_count_the_integral_k_times():
    target = blob()
    model, x = target.model(RectifiedFlow(), "velocity"), target.sample(POINTS, torch.Generator().manual_seed(0))
    integral = target.log_prob(x) - standard_normal(log_prob(model, x).latent)
    error, _ = probed(planted("summed"), 16)
    assert float(error.mean()) == pytest.approx(15 * float(integral.mean()), rel=0.05)
    assert abs(float(error.mean())) > 1 and covered(planted("summed")) < 0.5 < 0.95 - CHANCE


ROUGH = {log_prob: {"tolerance": 2e-3}}, {log_prob: {"tolerance": 2e-5}}
"""Options of a rough and a fine solution; others than log_prob take 16 and 128 steps."""


def settled(likelihood):
    """How far one probe's value moves from a rough solution to a fine one, from the same seed."""
    target = blob()
    model, x = target.model(RectifiedFlow(), "velocity"), target.sample(20, torch.Generator().manual_seed(0))
    rough, fine = (
        likelihood(
            model, x, divergence="hutchinson", probes=1, generator=torch.Generator().manual_seed(3),
            **options.get(likelihood, {"steps": n}),
        ).value
        for n, options in zip((16, 128), ROUGH)
    )  # fmt: skip
    return float((rough - fine).square().mean().sqrt())


@SOUND
def test_a_kept_probe_has_a_limit(likelihood):
    assert settled(likelihood) < 0.02


def test_a_resampled_probe_has_none():
    """n steps of RK4 then add 4n independent draws: variance h² Σ (1 + 4 + 4 + 1)/36 v(t), v the variance of vᵀJv.

    v = 2 Σ_{i≠j} S_ij², S the symmetric part of the Jacobian; here along the exact path.
    """
    target = blob()
    model, x = target.model(RectifiedFlow(), "velocity"), target.sample(20, torch.Generator().manual_seed(0))
    variances = []

    def slope(t, z):
        value, pull = torch.func.vjp(lambda z: model(z, t), z)
        jacobian = torch.vmap(lambda v: pull(v)[0])(units(z)).transpose(0, 1)
        part = (jacobian + jacobian.mT) / 2
        variances.append(2 * (part.square().sum((1, 2)) - part.diagonal(dim1=1, dim2=2).square().sum(1)))
        return value

    odeint(slope, x, torch.linspace(0, 1, 65, dtype=torch.float64), method="euler")
    mean = float(torch.stack(variances).mean())
    expected = math.sqrt(mean * 10 / 36 * (1 / 16 + 1 / 128))
    found = settled(planted("resampled"))
    assert found == pytest.approx(expected, rel=LIMIT / math.sqrt(2 * 20))
    assert found > 3 * 0.02


def test_an_adaptive_solver_cannot_follow_a_resampled_probe():
    """From 1e-3 to 1e-4 a fifth-order method takes 10^(1/5) times the calls, and on noise ten times and more."""
    target = blob()
    model, x = target.model(RectifiedFlow(), "velocity"), target.sample(1, torch.Generator().manual_seed(0))

    def calls(tolerance, resampled):
        generator = torch.Generator().manual_seed(0)
        kept = signs(1, x, generator)

        def slope(t, state):
            probe = signs(1, x, generator) if resampled else kept
            value, product = with_products(lambda z: model(z, t), torch.from_numpy(state[None, :-1]), probe)
            return np.append(value.numpy(), product.numpy())

        start = np.append(x.numpy(), 0.0)
        return solve_ivp(slope, (0.0, 1.0), start, "RK45", rtol=tolerance, atol=tolerance).nfev

    assert calls(1e-4, False) < 3 * calls(1e-3, False)
    assert calls(1e-4, True) > 10 * calls(1e-3, True) and calls(1e-4, True) > 10 * calls(1e-4, False)


# ------------------------------------------------------------------------------------ the same in log_prob's own code


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:log_prob did not reach")
def test_a_resampled_probe_in_log_prob_is_seen(monkeypatch):
    """Its own estimate of the error sees it: many times the calls, and not one sample within the tolerance."""
    target = blob()
    model, x = target.model(RectifiedFlow(), "velocity"), target.sample(2, torch.Generator().manual_seed(0))
    sound, generator = Probes.of, torch.Generator().manual_seed(0)

    def resampled(self, field, z):
        return sound(replace(self, vectors=signs(self.columns, z, generator)), field, z)

    kept = log_prob(model, x, 8, divergence="hutchinson", tolerance=1e-3)
    monkeypatch.setattr(Probes, "of", resampled)
    drawn = log_prob(model, x, 8, divergence="hutchinson", tolerance=1e-3)
    assert kept.converged.all() and not drawn.converged.any()
    assert drawn.nfe > 5 * kept.nfe


@pytest.mark.slow
def test_a_standard_error_of_one_probe_for_the_mean_of_many_is_seen(monkeypatch):
    """Four times too wide, it covers nearly all: P(|t| < 4 · 2.131) is 1 within 1e-6."""
    monkeypatch.setattr(
        Probes, "standard_error", lambda self, each: each.std(1) if len(each[0]) > 1 else 0 * each[:, 0]
    )
    assert covered(log_prob) > 0.95 + CHANCE
