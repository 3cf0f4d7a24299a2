"""The likelihood benchmark at reduced size: the recipes it judges are sound ones, its counts and goals are true."""

import csv
import importlib.util
import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import benchmark_likelihood as bench
import peers_likelihood as peers
from benchmark_likelihood import Measured
from targets_likelihood import TARGETS, Problem, problem_of

from scoresde import VP, RectifiedFlow, targets
from tests.problems import LIMIT, gaussian, mixture


def problem(target, n=20):
    x = target.sample(n, torch.Generator().manual_seed(0)).double()
    return Problem("one", "tuning", target, x, target.log_prob(x))


def errors(run, case):
    return (run(case, torch.Generator().manual_seed(0)) - case.truth).abs() / case.dim


@pytest.mark.parametrize("name", TARGETS)
def test_targets_are_densities_and_their_moments_those_of_their_samples(name):
    case = problem_of(name, 10, "cpu")
    assert case.x.shape == (10, case.dim) and case.x.dtype == torch.float64 and case.truth.isfinite().all()
    many = case.target.sample(4000, torch.Generator().manual_seed(1)).double()
    mean, covariance = case.target.moments
    white = torch.linalg.solve_triangular(torch.linalg.cholesky(covariance), (many - mean).mT, upper=False)
    assert white.mean(1).abs().max() < 1.2 * LIMIT / math.sqrt(4000)


def test_the_thin_gaussian_is_as_thin_as_it_says():
    deviations = TARGETS["thin gaussian"].make().moments[1].double()
    values = torch.linalg.eigvalsh(deviations).sqrt()
    assert float(values[0]) == pytest.approx(0.02) and float(values[-1]) == pytest.approx(1.0)


def test_the_divergence_is_that_of_a_linear_map():
    matrix, x = torch.randn(5, 5).double(), torch.randn(7, 5).double()
    probe = peers.signs(x, torch.Generator().manual_seed(0))
    value, exact = peers.with_divergence(lambda x: x @ matrix.mT, x, None)
    _, one = peers.with_divergence(lambda x: x @ matrix.mT, x, probe)
    assert torch.allclose(value, x @ matrix.mT) and torch.allclose(exact, matrix.trace().expand(7))
    assert torch.allclose(one, torch.einsum("bi,ij,bj->b", probe, matrix, probe))


def test_calls_and_derivatives_are_counted():
    case = problem(mixture(), 3)
    peers.with_divergence(lambda x: case.ask(x, 0.6, 0.8, 0.0, 1.0), case.x, None)
    case.ask(case.x, 0.6, 0.8, 0.0, 1.0)
    case.ask(case.x.clone().requires_grad_(), 0.6, 0.8, 0.0, 1.0)
    assert (case.calls, case.divergences) == (3, 2)
    case.until = 0.0
    with pytest.raises(TimeoutError):
        case.ask(case.x, 0.6, 0.8, 0.0, 1.0)


def test_flows_have_the_datas_density_where_the_prior_is_right():
    """dopri5 at 1e-8 a step; on VP a mixture's end is its moments' Gaussian but for cumulants of order α³ = 3e-7."""
    for target in (gaussian(), mixture()):
        case = problem(target)
        assert errors(lambda *a: peers.torchdiffeq(RectifiedFlow(), False, 1e-8, *a), case).max() < 2e-5
        assert errors(lambda *a: peers.torchdiffeq(VP(), True, 1e-8, *a), case).max() < 2e-5
        assert case.calls == case.divergences


def test_score_sdes_way_is_off_by_its_prior_and_truncation():
    """For N(m, s²) both are known: p(1e-5) for p(0), and N(0, 1) for p(1), at the latents of the exact flow."""
    target, process = targets.Gaussian(torch.tensor([0.8], dtype=torch.float64), 0.01), VP()
    case = problem(target)
    begin, end = (target.marginal(process, t) for t in (peers.TRUNCATION, 1.0))
    latent = (case.x - begin.means) * (end.variances / begin.variances).sqrt() + end.means
    prior = peers.standard_normal(latent) - end.log_prob(latent)
    expected = begin.log_prob(case.x) + prior - case.truth
    found = peers.score_sde(1e-9, True, case, torch.Generator()) - case.truth
    assert torch.allclose(found, expected, atol=1e-5) and expected.abs().mean() > 1e-3
    loose = peers.score_sde(1e-5, True, case, torch.Generator()) - case.truth
    assert torch.allclose(loose, expected, atol=1e-2) and not torch.allclose(loose, expected, atol=1e-7)


def test_one_probe_is_the_trace_where_the_jacobian_is_a_multiple_of_one():
    case = problem(targets.Gaussian(torch.zeros(4, dtype=torch.float64), 0.3))
    exact, one = (peers.score_sde(1e-7, e, case, torch.Generator().manual_seed(0)) for e in (True, False))
    assert torch.allclose(exact, one, atol=1e-5)


def test_an_isotropic_jacobian_has_the_trace_for_every_probe():
    x, trace = torch.randn(6, 4).double().requires_grad_(), torch.randn(6).double()
    value = peers._Isotropic.apply(2 * x.detach(), x, trace)
    probe = peers.signs(x, torch.Generator().manual_seed(0))
    (pulled,) = torch.autograd.grad((value * probe).sum(), x)
    assert torch.allclose((pulled * probe).sum(1), trace)


@pytest.mark.skipif(importlib.util.find_spec("flow_matching") is None, reason="flow_matching is optional")
@pytest.mark.filterwarnings("ignore")
def test_flow_matching_is_asked_in_its_own_time():
    case = problem(mixture())
    assert errors(lambda *a: peers.flow_matching(1e-7, True, *a), case).max() < 1e-5
    assert errors(lambda *a: peers.flow_matching(1e-5, False, *a), case).mean() > 1e-3
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.skipif(importlib.util.find_spec("k_diffusion") is None, reason="k-diffusion is optional")
@pytest.mark.filterwarnings("ignore")
def test_k_diffusions_floor_is_its_prior():
    """N(0, 80²) for N(m, s² + 80²): with an exact trace it is off by that and σ_min, at any tolerance."""
    target = targets.Gaussian(torch.tensor([0.8, -0.4], dtype=torch.float64), 0.3)
    case = problem(target)
    low, high = (targets.Gaussian(target.means[0], 0.3 + s**2) for s in (peers.SIGMA_MIN, peers.SIGMA_MAX))
    latent = target.means[0] + (case.x - target.means[0]) * (high.variances / low.variances).sqrt()
    prior = targets.Gaussian(torch.zeros(2).double(), peers.SIGMA_MAX**2).log_prob(latent)
    expected = low.log_prob(case.x) + prior - high.log_prob(latent)
    assert torch.allclose(peers.k_diffusion(1e-8, True, case, torch.Generator()), expected, atol=1e-5)
    assert (expected - case.truth).abs().mean() > 1e-3


@pytest.mark.parametrize("options", [{}, {"tolerance": 1e-4}, {"divergence": "hutchinson", "probes": 2}], ids=str)
def test_what_log_prob_says_of_its_calls_is_what_the_network_saw(options):
    case = problem(mixture(), 8)
    cell = bench.ours(case, case.target.model(VP()), options)
    assert not cell.miscounted
    assert cell.divergences <= cell.calls and 0 <= cell.held() <= 1 and cell.converged == 1.0
    assert options.get("probes") or cell.errors.max() < 1e-3


def test_goals_are_met_within_their_calls_only():
    goal = bench.GOALS["in 50"]
    assert goal == (1e-4, 50) and bench.GOALS["in 150"] == (1e-6, 150)
    for error, calls, met in ((9e-5, 50, True), (9e-5, 51, False), (2e-4, 50, False)):
        cell = Measured(torch.full((4,), error).double(), calls, calls, 1.0)
        assert cell.met(goal) == met
        shown = bench.line("scoresde", "default", "VP none", cell, 1.0)
        assert shown.split()[-2] == ("·" if calls > 50 else "yes" if met else "no")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_benchmark_writes_its_tables(tmp_path, monkeypatch, capsys):
    words = ["x", "--quick", "--targets", "mixture", "rare mode", "--processes", "VP", "EDM", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", words)
    bench.main()
    shown = capsys.readouterr().out.splitlines()
    assert max(map(len, shown)) <= 120
    for title in ("mixture (tuning), 2-D, 4 points", "rare mode (held-out), 3-D", "2 targets: the worst", "EDM  "):
        assert any(line.startswith(title) for line in shown), title
    rows = list(csv.DictReader((tmp_path / "likelihood.csv").read_text().splitlines()))
    mine, other = ([r for r in rows if (r["package"] == "scoresde") == own] for own in (True, False))
    assert {r["prior"] for r in mine} == {"VP moments", "VP none"}
    assert {"score_sde's way", "torchdiffeq"} <= {r["package"] for r in other}
    assert all(float(r["mean"]) <= float(r["largest"]) and float(r["calls"]) > 0 for r in rows)
    assert all(r["calls"] == r["divergences"] for r in other)
    best = [r for r in mine if r["setting"] == "default" and r["prior"] == "VP moments"]
    assert all(float(r["mean"]) < 1e-3 and float(r["ratio"]) == 1.0 for r in best)
    table = list(csv.DictReader((tmp_path / "likelihood-processes.csv").read_text().splitlines()))
    assert len(table) == 2 * 2 * 2  # moments or none, processes, targets
