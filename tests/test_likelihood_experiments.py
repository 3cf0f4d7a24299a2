"""The likelihood experiments at reduced sizes: what they compare is right, and they run."""

import math
import sys
from argparse import Namespace
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
pytest.importorskip("sklearn")
import density_baselines
import figure_density
import likelihood_digits
import likelihood_tables
from likelihood_digits import RECIPES, Recipe
from pixel_network import Histogram, runs
from scipy.stats import multivariate_normal

from scoresde import Model, log_prob, loss
from scoresde.likelihood.chain import vlb
from scoresde.likelihood.continuous import elbo

COUNT = 9


def images(n: int, seed: int) -> torch.Tensor:
    """Every pixel 0 with probability 0.6, else uniform: each of the levels but the first a sixth as likely."""
    generator = torch.Generator().manual_seed(seed)
    levels = torch.randint(1, COUNT, (n, 4, 4), generator=generator)
    return levels * (torch.rand((n, 4, 4), generator=generator) > 0.6)


@pytest.fixture(scope="module")
def recipe():
    return Recipe(lambda: (images(400, 0), images(60, 1)), COUNT, 1, 5, 40, ((1, "full", 1e-3), (2, "diag", 1e-2)))


@pytest.fixture(scope="module")
def model(recipe):
    """Independent pixels, whose probabilities are known."""
    model = likelihood_digits.untrained(recipe, recipe.data()[0])
    net = model.net.eval().requires_grad_(False)
    assert (net._correction(torch.randn(2, 3, 4, 4), torch.rand(2)) == 0).all()
    net._correction = lambda seen, place: seen.new_zeros(len(seen), 4, 4, 1)  # the same, in less time
    return replace(model, net=net)


def test_runs_hold_their_share_and_single_levels_that_have_it():
    levels = torch.tensor([0] * 60 + [1] * 2 + [2] * 2 + [3] * 2 + [7] * 30 + [8] * 4)
    assert runs(levels, 10, share=0.04).tolist() == [0, 1, 3, 7, 8, 9, 10]
    assert runs(levels, 10, share=0.0).tolist() == list(range(11))


@pytest.mark.parametrize("comb", [False, True], ids=["spread levels", "bare levels"])
@pytest.mark.parametrize("widths", [0.05, 0.3, 0.9, 1.1, 3.0, 100.0])
def test_untrained_it_is_the_exact_noise_of_independent_pixels(model, recipe, widths, comb):
    """Against autograd through the sum over all levels; bare ones from σ/α of a width by matched variances."""
    net, width = deepcopy(model.net.bare() if comb else model.net).double(), 2 / COUNT
    chance = (net.log_heights + math.log(width))[..., net.run]
    centre = -1 + width * (torch.arange(COUNT, dtype=torch.float64) + 0.5)
    rho = widths * width
    x = centre[recipe.data()[1][:20]]
    x = (x + rho * torch.randn(x.shape, dtype=torch.float64)).requires_grad_()
    if comb:
        terms = -0.5 * ((x[..., None] - centre) / rho) ** 2
    else:
        inside = torch.special.ndtr((centre + width / 2 - x[..., None]) / rho)
        terms = (inside - torch.special.ndtr((centre - width / 2 - x[..., None]) / rho)).clamp_min(1e-300).log()
    (slope,) = torch.autograd.grad((chance + terms).logsumexp(-1).sum(), x)
    got = net(x.detach(), torch.full((20,), rho, dtype=torch.float64))
    assert (got + rho * slope).abs().max() < (0.03 / widths**4 if comb and widths > 1 else 0) + 1e-4


@pytest.mark.slow
def test_the_three_routes_find_the_exact_probabilities_of_independent_pixels(model, recipe):
    train, test = recipe.data()
    exact = likelihood_digits.independent(model, test, recipe)
    rows = list(likelihood_digits.ours(model, train, test, recipe, 2, 128, 20))
    assert [(row.name, row.noise) for row in rows] == [
        *((f"scoresde {route}", noise) for route in ("log_prob", "elbo")
          for noise in ("uniform", "truncated normal", "variational")),
        ("scoresde vlb, geometric chain", "none"), ("scoresde vlb, ddpm()", "none"),
    ]  # fmt: skip
    for row in rows[:-1]:  # ddpm()'s first steps are long beside a level
        above = (row.each - exact.each).double()
        chance = float(above.std()) / math.sqrt(len(above))
        assert -4 * chance < above.mean() < 4 * chance + 0.03, row.name  # at most the levels' blurred edges
    assert "gain" not in rows[0].line(None) and len(rows[0].line(exact)) <= 100


def test_a_longer_first_step_costs_what_ddpm_pays(model, recipe):
    train, test = recipe.data()
    bare = likelihood_digits.bare_levels(model, train, recipe)
    exact = likelihood_digits.independent(model, test, recipe).each
    fine, coarse = (
        vlb(bare.on(chain), test, COUNT, 32, generator=torch.Generator().manual_seed(0)).bits_per_dim
        for chain in (likelihood_digits.chain(COUNT, 500), likelihood_digits.chain(COUNT, 30))
    )
    assert abs((fine - exact).mean()) < 4 * (fine - exact).std() / math.sqrt(len(exact)) + 0.02
    assert coarse.mean() > fine.mean() + 0.1


def test_training_lowers_the_loss_and_the_networks_share_weights(recipe):
    """Rows of pixels that all agree: the histograms of single pixels know nothing of it."""
    level = torch.randint(0, COUNT, (300, 4, 1), generator=torch.Generator().manual_seed(0)).expand(-1, 4, 4)
    rows = replace(recipe, data=lambda: (level.contiguous(), level[:20]))
    train = rows.data()[0]
    model = likelihood_digits.untrained(rows, train)
    draw = likelihood_digits.data.dequantized(train, COUNT)
    source = torch.Generator().manual_seed(1)
    trained = [best for _, best in likelihood_digits.fitting(model, draw, 60, 0.02, 10.0, generator=source)][-1]
    x = draw(200, torch.Generator().manual_seed(2))
    t = torch.full((200,), 0.3, dtype=torch.float64)
    before, after = (
        float(loss(m, x, t, generator=torch.Generator().manual_seed(3)).mean().detach())
        for m in (likelihood_digits.untrained(rows, train), trained)
    )
    assert after < 0.8 * before
    assert isinstance(trained.net, Histogram)
    assert trained.net.bare().leave.weight is trained.net.leave.weight and not trained.net.comb


def test_baselines_choose_by_validation_and_are_densities():
    generator = np.random.default_rng(0)
    x = np.concatenate([generator.normal(-3, 0.5, (300, 2)), generator.normal(3, 0.5, (300, 2))])
    normal, mixed, kernel = density_baselines.baselines(x, ((1, "full", 1e-4), (2, "full", 1e-4)), (0.01, 0.1, 1.0))
    assert mixed.setting.startswith("2 full") and kernel.setting == "0.1"
    direct = multivariate_normal(x.mean(0), np.cov(x.T, bias=True)).logpdf(x)
    assert np.allclose(density_baselines.gaussian(x, 0.0)(x), direct)
    axis = np.linspace(-7, 7, 141)
    points = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    for fitted in (mixed, kernel):
        assert np.exp(fitted.log_prob(points)).sum() * 0.1**2 == pytest.approx(1.0, abs=0.01)
        assert fitted.log_prob(x).mean() > normal.log_prob(x).mean() + 0.5
    wide = density_baselines.gaussian(x, 0.5)(np.array([[3.0, 3.0], [3.0, -3.0]]))
    assert wide[1] > direct.min()  # shrinkage forgets the correlation


def test_tables_hold_every_row_out_once():
    for name in ("wine", "breast cancer"):
        recipe = likelihood_tables.TABLES[name]
        splits = list(recipe.splits())
        total = len(recipe.load())
        assert sum(len(test) for _, test in splits) == total
        assert all(len(train) + len(test) == total for train, test in splits)
        assert all(np.allclose(train.mean(0), 0, atol=1e-8) and np.allclose(train.std(0), 1) for train, _ in splits)


def test_the_corrected_network_begins_as_the_mixture():
    """Two modes of full covariance in four dimensions, by EM and by the flow of its exact noise."""
    generator = torch.Generator().manual_seed(0)
    modes = [torch.randn(300, 4, generator=generator) @ torch.randn(4, 4, generator=generator) + 3 * k for k in (-1, 1)]
    x = torch.cat(modes).double().numpy()
    exact = density_baselines.mixture(x, 2, "full", likelihood_tables.FLOOR)(x[::30])
    density = likelihood_tables.scored(x, 1, 16, 2, lr=1e-12)
    assert np.abs(density(x[::30]) - exact).mean() < 4 * likelihood_tables.TOLERANCE


def test_patches_are_dequantized_photographs():
    pytest.importorskip("skimage")
    x = likelihood_tables.patches()
    assert x.shape[1] == 64 and len(x) == 10_000 and -1 <= x.min() < x.max() <= 1
    assert len(np.unique(x[:100])) > 6000  # no two numbers the same but by chance
    assert np.cov(x.T)[0, 1] > 0.8 * np.cov(x.T)[0, 0]  # neighbours agree


def test_the_figure_shows_the_models_density(tmp_path):
    target = figure_density.mixture()
    model, exact = figure_density.on_grid(target.model(likelihood_digits.ddpm()), target, 16)
    assert (model - exact).abs().max() < 0.02
    out = tmp_path / "density.png"
    figure_density.draw(model, exact, out)
    assert 10_000 < out.stat().st_size < 150_000
    trained = figure_density.trained(target, 3, width=8)
    assert isinstance(trained, Model) and torch.isfinite(log_prob(trained, torch.zeros(2, 2)).value).all()


@pytest.mark.slow
def test_the_tables_are_printed(tmp_path, capsys, monkeypatch, recipe):
    monkeypatch.setitem(RECIPES, "digits", recipe)
    options = Namespace(quick=True, device="cpu", out=tmp_path, probes=2, samples=8)
    rows = likelihood_digits.table("digits", options)
    assert len(rows) == 12 and all(torch.isfinite(row.each).all() and len(row.each) == 16 for row in rows)
    assert list(tmp_path.glob("digits-*.pt"))
    values = dict(likelihood_tables.table("wine", options))
    assert set(values) == {"Gaussian", "Gaussian mixture (EM)", "kernel density", "scoresde"}
    shown = capsys.readouterr().out
    assert "scoresde log_prob" in shown and "wine: 13 numbers a row" in shown
    assert not [line for line in shown.splitlines() if len(line) > 100 and not line.startswith("  ")]


def test_the_bound_is_below_the_density(model, recipe):
    """elbo and the exact log-density of independent spread pixels, both in nats of the model's space."""
    test = recipe.data()[1][:30]
    x = likelihood_digits.data.dequantize(test, COUNT, generator=torch.Generator().manual_seed(4)).double()
    exact = likelihood_digits.independent(model, test, recipe).each * -16 * math.log(2) - 16 * math.log(2 / COUNT)
    result = elbo(model, x.float(), 128, generator=torch.Generator().manual_seed(5))
    gap = (exact - result.value) / 16
    assert -4 * float(result.standard_error.square().mean().sqrt()) / math.sqrt(30) / 16 < gap.mean() < 0.03
