"""Certificates: the exact problems they rest on, the three ways of measuring a law, what passes and what fails."""

import math
import re
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from scoresde import EDM, VP, Cosine, RectifiedFlow
from scoresde.cli import main
from scoresde.samplers import (
    DDIM,
    DDPM,
    Adams,
    AnnealedLangevin,
    DPMSolverPP,
    EulerMaruyama,
    Exponential,
    Heun,
    Sampler,
    sample,
)
from scoresde.testing import Certificate, certify, claims, orders
from scoresde.testing.certificate import Check, spelled, table
from scoresde.testing.exact import GAUSSIAN, MIXTURE, Problem, interior
from tests.problems import MAIN, exact_flow, name

DOCS = Path(__file__).parent.parent / "docs" / "certificates.md"
TWICE = Problem("one normal, written as two", (0.4, 0.6), (0.7, 0.7), (0.3, 0.3))


# --- the problems ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("process", MAIN, ids=name)
@pytest.mark.parametrize("problem", [GAUSSIAN, MIXTURE], ids=lambda p: p.name)
def test_a_problems_model_is_its_targets(process, problem):
    for dim in (1, 2):
        x = torch.randn(9, dim, dtype=torch.float64)
        own, target = problem.model(process, dim), problem.target(dim).model(process, "v")
        for t in (0.0, 0.3 * process.t_max, process.t_max, process.t_max * torch.rand(9, dtype=torch.float64)):
            assert torch.allclose(own(x, t), target(x, t), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("process", MAIN, ids=name)
def test_the_flow_is_exact(process):
    """On the Gaussian against its closed form, on the mixture against a fine run, and there and back to rounding."""
    times = interior(process, 400)
    x = GAUSSIAN.starts(process, times[0])
    closed = exact_flow(GAUSSIAN.target(2), process, x, times[0], times[-1])
    assert torch.allclose(GAUSSIAN.carried(process, x, times[0], times[-1]), closed, rtol=1e-12, atol=1e-12)
    x = MIXTURE.starts(process, times[0])
    end = MIXTURE.carried(process, x, times[0], times[-1])
    fine = sample(MIXTURE.model(process, 2), x=x, sampler=Exponential("noise", 4), grid=times)
    assert (fine - end).abs().max() < 1e-6 * process.at("alpha", times[-1])
    assert torch.allclose(MIXTURE.carried(process, end, times[-1], times[0]), x, rtol=1e-10, atol=1e-10)


def test_starts_are_spread_as_the_noisy_data():
    x = MIXTURE.starts(VP(), 1.0)
    assert x.shape == (16, 2) and x.mean().abs() < 0.01 and ((x.std(0) - 1).abs() < 0.1).all()


def test_expectations_are_exact():
    level = (0.8, 0.6)
    mean, second = MIXTURE.expectation(orders.tests, level)[:2]
    target = MIXTURE.target(1).marginal(VP(), 0.0)
    m, v = float(target.moments[0]), float(target.moments[1])
    assert math.isclose(mean, 0.8 * m, rel_tol=1e-12)
    assert math.isclose(second, 0.64 * (v + m * m) + 0.36, rel_tol=1e-12)
    normal = np.random.default_rng(0).standard_normal(100_000)
    drawn = orders.tests(MIXTURE.quantiles(normal, level)).mean(0)
    assert np.abs(drawn - MIXTURE.expectation(orders.tests, level)).max() < 0.05


# --- laws ------------------------------------------------------------------------------------------------------


def test_one_step_of_ancestral_sampling_is_affine_as_the_formula_says():
    process, (t, s) = VP(), (0.6, 0.4)
    model = GAUSSIAN.model(process, 1)
    offset, gain, noise = orders.affine(partial(orders._stepped, DDPM(), model, t, s))
    alpha, sigma, tau = process.at("alpha", s), process.at("sigma", s), process.at("sigma", t)
    variance = process.at("alpha", t) ** 2 * 0.3 + tau**2
    rho = sigma / alpha * process.at("alpha", t) / tau  # x_s from x̂₀ = m + (α_t v/variance)(x − α_t m), and ε̂
    slope, back = process.at("alpha", t) * 0.3 / variance, tau / variance
    assert math.isclose(gain, alpha * slope + sigma * rho * back, rel_tol=1e-12)
    assert math.isclose(offset, alpha * 0.7 - gain * process.at("alpha", t) * 0.7, rel_tol=1e-10)
    assert math.isclose(noise, sigma**2 * (1 - rho**2), rel_tol=1e-12)


@pytest.mark.parametrize("sampler", [EulerMaruyama(), DDPM("beta"), Heun()], ids=repr)
def test_kolmogorovs_equation_agrees_with_exact_propagation(sampler):
    """On one normal written as a mixture of two: mean and second moment, by either way."""
    times = interior(VP(), 20)
    model, here = TWICE.model(VP(), 1), (VP().at("alpha", times[0]), VP().at("sigma", times[0]))
    function = orders.tests
    for t, s in reversed(list(pairwise(times))):
        lattice = TWICE.lattice((VP().at("alpha", t), VP().at("sigma", t)), orders.POINTS)
        function = orders.averaged(partial(orders._stepped, sampler, model, t, s), function, lattice)
    mean, second = TWICE.expectation(function, here)[:2]

    def whole(x, randn):
        *_, x = sampler.run(model, x, times, randn)
        return x

    offset, gain, noise = orders.affine(whole)
    m = gain * here[0] * 0.7 + offset
    v = gain**2 * (here[0] ** 2 * 0.3 + here[1] ** 2) + noise
    assert math.isclose(mean, m, rel_tol=1e-6) and math.isclose(second, v + m * m, rel_tol=1e-6)


def test_sampled_laws_agree_with_kolmogorovs_equation(monkeypatch):
    """Where a step remembers nothing, both ways apply."""
    monkeypatch.setattr(orders, "PATHS", 500)
    times = interior(VP(), 12)
    exact, chance = orders.weak_error(DDPM(), MIXTURE, VP(), times)
    monkeypatch.setattr(orders, "remembers", lambda *arguments: True)
    sampled, error = orders.weak_error(DDPM(), MIXTURE, VP(), times)
    assert chance == 0.0 and 0 < error < 0.1 * exact and abs(sampled - exact) < 3 * error


def test_memory_is_seen_where_there_is_one():
    times, model = interior(VP(), 20), MIXTURE.model(VP(), 1)
    assert orders.remembers(DPMSolverPP(2, 1.0), model, times)
    assert not orders.remembers(DPMSolverPP(1, 1.0), model, times)
    assert not orders.remembers(EulerMaruyama(), model, times)


def test_langevins_bias_on_a_gaussian_is_the_closed_form():
    """x ← x − cσ²x/(2v) + √c σ ξ leaves v/(1 − cσ²/(4v)) unchanged, and the mean exact."""
    t = float(VP().time(-2 * math.log(0.5)))
    sigma2, v = VP().at("sigma", t) ** 2, VP().at("alpha", t) ** 2 * 0.3 + VP().at("sigma", t) ** 2
    expected = 1 / (1 - 0.3 * sigma2 / (4 * v)) - 1
    assert math.isclose(orders.bias(AnnealedLangevin(1, 0.3), GAUSSIAN, VP(), t), expected, rel_tol=1e-9)
    both = [orders.bias(AnnealedLangevin(1, 0.3), problem, VP(), t) for problem in (TWICE, MIXTURE)]
    assert all(0.001 < b < 0.2 for b in both)


# --- certificates ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mine(Sampler):
    """Someone's Euler step in x/α against σ/α, with a knob that spoils it."""

    spoil: float = 0.0

    def step(self, model, x, t, s, memory, randn):
        process = model.process
        (a, r), (b, q) = ((process.at("alpha", u), process.at("sigma", u) / process.at("alpha", u)) for u in (t, s))
        return b * (x / a + (1 + self.spoil) * (q - r) * model.predict("noise", x, t)), memory


FAST = {"most": 128, "ends": 0}


def test_a_users_sampler_is_certified():
    certificate = certify(Mine(), 1, most=128)
    assert certificate.passed and certificate.calls == 1 and 0 < certificate.round_trip < 0.2
    assert [check.problem for check in certificate.checks] == ["Gaussian", "mixture", "mixture, to the data"]
    for check in certificate.checks:
        assert len(check.errors) == len(check.steps) > 2 and abs(check.measured - 1) < 0.2
    assert str(certificate).split()[:3] == ["Mine()", "strong", "1"] and str(certificate).endswith("✓")
    flow = certify(Mine(), 1, process=RectifiedFlow(), **FAST)
    assert flow.passed and math.isnan(flow.round_trip)  # its division by α is undefined at the noise end


def test_what_is_wrong_fails():
    assert not certify(Mine(0.02), 1, **FAST).passed  # two in a hundred
    assert not certify(Mine(), 2, **FAST).passed  # an order too high
    assert not certify(Heun(), 1, **FAST).passed  # or too low
    assert certify(Heun(), 1, note="because", **FAST).passed
    assert not certify(Mine(0.02), 1, note="because", **FAST).passed


def test_an_exact_result_has_no_order_and_one_that_is_not_finite_fails():
    known = replace(GAUSSIAN, knows_moments=True)
    exact = certify(Adams(3), 3, problems=(known,), **FAST)
    assert exact.checks[0].measured == math.inf and not exact.passed
    assert certify(Adams(3), 3, problems=(known,), note="exact for data whose moments it knows", **FAST).passed
    wild = certify(Mine(1e300), 1, **FAST)
    assert math.isnan(wild.checks[0].measured) and not wild.passed


def test_the_verdict_counts_the_standard_error():
    sure = Check("mixture", (10, 20), (4e-2, 2.1e-2), (0.0, 0.0), 1, 0.3, 0.3)
    assert sure.passed and sure.standard_error == 0 and math.isclose(sure.measured, math.log2(4 / 2.1))
    unsure = replace(sure, standard_errors=(4e-3, 4e-3))
    assert not unsure.passed and str(unsure) == "0.93±0.31"
    assert not replace(sure, errors=(4e-2, 1e-2)).passed and replace(sure, errors=(4e-2, 1e-2), above=math.inf).passed
    assert math.isclose(replace(sure, steps=(10, 20, 40), errors=(4.0, 1.0, 1.0), across=3).measured, 1.0)


def test_samplers_are_spelled_as_written():
    for text in ("DDIM()", "DDIM(0.5)", "DPMSolver(3, 'multistep', 'published')", "Exponential(order=3)"):
        assert spelled(eval(text, vars(__import__("scoresde.samplers", fromlist=["x"])))) == text


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((DDIM, 1), TypeError, r"write DDIM\(\)"),
        (("DDIM", 1), TypeError, "must be a Sampler"),
        ((lambda n: n, 1), TypeError, r"sampler\(n\) must be a Sampler"),
        ((DDIM(), -1), ValueError, "order must be positive"),
        ((DDIM(), "1"), TypeError, "order must be a number"),
        ((DDIM(), 1, "strnog"), ValueError, "Did you mean 'strong'"),
    ],
    ids=["class", "name", "function", "negative", "text", "kind"],
)
def test_bad_input_is_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        certify(*arguments)
    with pytest.raises(ValueError, match="most must be at least"):
        certify(DDIM(), 1, most=0)


# --- the command -----------------------------------------------------------------------------------------------


def test_the_command_prints_a_table(capsys, monkeypatch):
    monkeypatch.setattr(claims, "CLAIMS", (claims.Claim(DDIM(), 1, FAST), claims.Claim(Mine(0.5), 1, FAST)))
    assert main(["certify", "--only", "ddim", "--errors"]) == 0
    shown = capsys.readouterr().out
    assert "all 1 passed" in shown and "mixture" in shown and max(map(len, shown.splitlines())) <= 100
    assert main(["certify"]) == 1
    assert "failed: Mine(0.5)" in capsys.readouterr().out
    assert main(["certify", "--only", "DIDM"]) == 2
    assert "Did you mean 'DDIM'?" in capsys.readouterr().err
    assert main(["certify", "--help"]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80


def test_every_sampler_has_a_row():
    import scoresde.samplers as samplers

    mine = {row.name.split("(")[0] for row in claims.CLAIMS}
    public = {n for n in samplers.__all__ if isinstance(c := getattr(samplers, n), type) and issubclass(c, Sampler)}
    assert mine == public - {"Sampler"}
    assert {row.name for row in claims.chosen(quick=True)} == claims.QUICK


def test_the_documented_table_has_every_row():
    shown = DOCS.read_text()
    assert f"all {len(claims.CLAIMS)} passed" in shown and "scoresde certify" in shown
    orders_shown = dict(re.findall(r"^(\S.*?\))\s+(?:strong|weak|bias|rtol)\s+(\d)", shown, re.M))
    assert orders_shown == {row.name: f"{row.order:g}" for row in claims.CLAIMS}


@pytest.mark.parametrize("row", claims.chosen(quick=True)[:3], ids=lambda row: row.name)
def test_some_samplers_have_their_order(row):
    certificate = row.certificate()
    assert isinstance(certificate, Certificate) and certificate.passed, table([certificate], errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("row", claims.CLAIMS, ids=lambda row: row.name)
def test_every_sampler_has_its_order(row):
    certificate = row.certificate()
    assert certificate.passed, table([certificate], errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("process", [RectifiedFlow(), EDM(), Cosine()], ids=name)
@pytest.mark.parametrize(
    ("sampler", "order"), [(Adams(3), 3), (Exponential(), 3), (Heun(), 2), (DDPM(), 1)], ids=spelled
)
def test_orders_do_not_depend_on_the_process(process, sampler, order):
    certificate = certify(sampler, order, process=process, ends=0, most=256)
    assert certificate.passed, table([certificate], errors=True)
