"""Lessons 1 to 3 at reduced size: what they claim is right, pictures draw, and scenes fit their controls."""

import dataclasses
import importlib
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from scoresde import VP, targets
from scoresde.plots import DARK, LIGHT
from scoresde.samplers import Exponential

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import forward_process
import score_field
import walk_back

LESSONS = ("forward_process", "score_field", "walk_back")


@pytest.fixture(scope="module")
def results():
    found = {}

    def result(name):
        if name not in found:
            found[name] = importlib.import_module(name).measure(True, "cpu")
        return found[name]

    return result


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("name", LESSONS)
def test_the_picture_draws(name, theme, results):
    figure = importlib.import_module(name).draw(results(name), theme)
    assert isinstance(figure, Figure) and figure.get_facecolor()[:3] == pytest.approx(
        [int(theme.paper[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    )
    figure.draw_without_rendering()


def frames(panel):
    """What a panel shows: (name, array, how many axes follow the controls')."""
    found = [("mark", getattr(panel, "mark", None), 0), ("frames", getattr(panel, "frames", None), 2)]
    found.append(("density", getattr(panel, "density", None), 2))
    for part, tail in (("series", 1), ("bars", 1), ("points", 2), ("arrows", 2), ("rows", 0)):
        found += [(f"{part}: {name}", values, tail) for name, values in getattr(panel, part, {}).items()]
    return [(name, np.asarray(values), tail) for name, values, tail in found if values is not None]


@pytest.mark.parametrize("name", LESSONS)
def test_the_scene_fits_its_controls(name, results):
    scene = importlib.import_module(name).scene(results(name))
    sizes = [len(control.values) for control in scene.controls]
    moved, numbers = [False] * len(sizes), 0
    for panel in scene.panels:
        for part, values, tail in frames(panel):
            assert values.ndim == len(sizes) + tail, part
            assert all(have in (1, want) for have, want in zip(values.shape, sizes)), (part, values.shape, sizes)
            assert np.isfinite(values).all(), part
            moved = [m or bool((values != values.take([0], axis=k)).any()) for k, m in enumerate(moved)]
            numbers += values.size
        if hasattr(panel, "x"):
            assert all(values.shape[-1] == len(panel.x) for _, values, tail in frames(panel) if tail == 1)
        if getattr(panel, "at", None) is not None:
            assert all(arrows.shape[-2:] == np.shape(panel.at) for arrows in panel.arrows.values())
    assert all(moved) and numbers < 400_000
    assert all(0 <= control.start < size for control, size in zip(scene.controls, sizes))


# --- the forward process ---


def test_times_are_those_of_the_closed_forms(results):
    """Which another way confirms: the SNR that α and σ have at them, to the digits that t keeps of the least σ."""
    result = results("forward_process")
    assert result.closed < forward_process.TOLERANCE
    for name, process in forward_process.PROCESSES.items():
        for level, t in zip(forward_process.LEVELS, result.times[name]):
            assert float(process.alpha(t) / process.sigma(t)) ** 2 == pytest.approx(level, rel=1e-9), (name, level)
    assert "within 1e-12" in forward_process.table(result)


def test_a_wrong_closed_form_is_seen(monkeypatch):
    monkeypatch.setitem(forward_process.CLOSED, "Cosine", lambda snr: forward_process._cosine(snr, 0.0080001))
    result = forward_process.measure(True, "cpu")
    assert result.closed > 1e-9 and "BEYOND" in forward_process.table(result)


def test_the_chain_crosses_where_its_table_says(results):
    """By hand: at SNR 1, Π(1 − β_i) passes ½, which the product itself shows."""
    result = results("forward_process")
    kept = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    for level, step in zip(forward_process.LEVELS, result.steps):
        share = level / (1 + level)
        assert kept[step - 1] < share < kept[step - 2]
    text = forward_process.table(result)
    assert "at the step that" in text
    assert "ANOTHER" in forward_process.table(dataclasses.replace(result, steps=[s + 1 for s in result.steps]))


def test_pictures_are_the_same_at_equal_snr(results):
    """1e-12: a few roundings of numbers of order one; drawn SNR: eight draws beyond 4 standard errors once in 2,000."""
    result = results("forward_process")
    assert result.same < 1e-12
    assert max(map(abs, result.drawn.values())) < 4 * result.error
    assert result.image.mean().abs() < 1e-12 and result.image.var(correction=0) == pytest.approx(1.0)
    for name, strip in result.strips.items():
        start = float(forward_process.PROCESSES[name].sigma(0.0))
        assert (strip[0] - result.image).abs().max() < 5 * start + 1e-12, name  # VE begins at σ_min


# --- the score field ---


def test_the_exact_field_is_the_gradient(results):
    result = results("score_field")
    assert result.gradient < 1e-12  # float64, a few dozen operations
    assert "gradient of log p_t" in score_field.table(result)


def test_the_learned_field_is_right_where_the_data_are(results):
    """120 steps of training halve the error of the field 0 at every t above 0.1; outside they do less."""
    result = results("score_field")
    late = [i for i, t in enumerate(score_field.TIMES) if t >= 0.1]
    assert float(result.under[late].max()) < 0.5
    early = score_field.TIMES.index(0.03)
    assert result.over[early] > result.under[early] + 5 * result.spread[early]
    assert (result.spread < 0.1 * result.under).all()


def test_the_relative_error_and_its_own():
    """Of differences that are ε of the truth: ε/10 exactly, without chance; and Monte Carlo's spread is as told."""
    source = torch.Generator().manual_seed(0)
    truth = torch.randn(500, 2, generator=source, dtype=torch.float64)
    value, error = score_field.relative(0.1 * truth, truth)
    assert value == pytest.approx(0.1, rel=1e-12) and error < 1e-12
    draws = [
        score_field.relative(*torch.randn(2, 500, 2, generator=source, dtype=torch.float64)) for _ in range(200)
    ]  # of true value 1
    values, errors = (torch.stack(part) for part in zip(*draws))
    assert abs(values.mean() - 1) < 5 * values.std() / math.sqrt(200)
    assert errors.mean() == pytest.approx(float(values.std()), rel=5 / math.sqrt(400))  # a deviation of 200: ± 1/√400


def test_particles_of_the_exact_field_find_the_modes(results):
    """Mean posteriors of 500 within 4 standard errors of the weights: six numbers, by chance once in 2,600."""
    result = results("score_field")
    for walk, found in result.paths.items():
        assert found["exact"].shape == (len(score_field.TIMES) + 1, 500, 2)
        share, error = score_field.shares(result.target, found["exact"][-1])
        assert ((share - result.target.weights).abs() < 4 * error).all(), walk


def test_a_population_on_the_wrong_modes_is_seen(results):
    target = results("score_field").target
    wrong = targets.GaussianMixture([0.35, 0.3, 0.35], target.means, target.covariances)
    share, error = score_field.shares(target, wrong.sample(500, torch.Generator().manual_seed(0)))
    assert ((share - target.weights) / error).abs().max() > 4


def test_arrows_and_density_are_at_their_places(results):
    """The arrows are σ ∇log p_t by autograd; the density integrates to its mass in the box and peaks at a mode."""
    result, k = results("score_field"), score_field.TIMES.index(0.1)
    law, at = result.target.marginal(score_field.PROCESS, 0.1), score_field.plane(score_field.ARROWS).requires_grad_()
    (truth,) = torch.autograd.grad(law.log_prob(at).sum(), at)
    assert (result.arrows["exact"][k] - float(score_field.PROCESS.sigma(0.1)) * truth).abs().max() < 1e-10
    cell = (2 * score_field.HALF / score_field.CELLS) ** 2
    inside = (law.sample(20_000, torch.Generator().manual_seed(0)).abs() < score_field.HALF).all(1).double().mean()
    assert float(result.density[k].sum() * cell) == pytest.approx(float(inside), abs=5 * 0.5 / math.sqrt(20_000))
    row, column = divmod(int(result.density[k].argmax()), score_field.CELLS)  # near the heaviest mode, (0.2, −1.1) α
    place = (torch.tensor([column, row]) + 0.5) * 2 * score_field.HALF / score_field.CELLS - score_field.HALF
    assert (place - law.means[2]).abs().max() < 0.2


# --- the walk back ---


def test_the_mixture_has_mean_zero_and_variance_one():
    mean, covariance = walk_back.mixture().moments
    assert abs(mean.item()) < 1e-15 and covariance.item() == pytest.approx(1.0, rel=1e-14)
    posterior = walk_back.mixture().responsibilities(torch.tensor([[walk_back.valley()]], dtype=torch.float64))
    assert posterior[0, 0] == pytest.approx(0.5, abs=1e-12)


def test_the_exact_law_is_the_marginal(results):
    """Bins' probabilities against the density at their middles, by the midpoint rule: h² max|p″|/24 < 2e-3."""
    result, law = results("walk_back"), walk_back.mixture().marginal(VP(), 0.2)
    _, spread = walk_back.moments(VP(), 0.2)
    width = 2 * walk_back.REACH / walk_back.BINS
    y = (torch.arange(walk_back.BINS, dtype=torch.float64) + 0.5) * width - walk_back.REACH
    truth = law.log_prob(spread * y[:, None]).exp() * spread
    k = round(0.8 * walk_back.TIMES)
    assert (result.exact["VP"][k] - truth).abs().max() < 2e-3
    x = torch.linspace(-6, 0.3, 2001, dtype=torch.float64)
    area = torch.trapezoid(law.log_prob(x[:, None]).exp(), x)
    assert float(walk_back.below(law, torch.tensor(0.3, dtype=torch.float64))) == pytest.approx(float(area), abs=1e-5)


def test_populations_follow_the_exact_law(results):
    """Kolmogorov's bound over all tests is exceeded by chance once in 100; the shares, 16 of them, by 4 errors less."""
    result = results("walk_back")
    share = float(result.truth["VP"][-1])
    error = math.sqrt(share * (1 - share) / result.n)
    for name, found in result.walks.items():
        for eta, w in found.items():
            assert float(w.off.max()) < walk_back.bound(result), (name, eta)
            assert abs(float(w.left[-1]) - share) < 4 * error, (name, eta)
            assert w.density.sum(1).mul(2 * walk_back.REACH / walk_back.BINS).sub(1).abs().max() < 0.01
    assert "no more than exact draws" in walk_back.table(result)


def test_the_ode_is_the_monotone_map_and_the_sde_the_forward_process(results):
    """1e-3: the ODE's error and what the prior lacks of p_T; correlations of 2,000 within 4/√2000 of the truth."""
    result = results("walk_back")
    draws = walk_back.mixture().sample(200_000, torch.Generator().manual_seed(0)).double()[:, 0].sort().values
    scores = torch.special.ndtri((torch.arange(len(draws), dtype=torch.float64) + 0.5) / len(draws))
    assert result.mapped == pytest.approx(float((scores * draws).mean()), abs=5 / math.sqrt(len(draws)))
    for name, found in result.walks.items():
        assert found[0.0].crossed == 0 and found[0.0].moved < 1e-3, name
        assert abs(found[0.0].correlation - result.mapped) < 4 / math.sqrt(result.n), name
        assert abs(found[1.0].correlation - result.forward[name]) < 4 / math.sqrt(result.n), name
    assert "no two particles cross" in walk_back.table(result)


class Loud(Exponential):
    """Noise a tenth too large."""

    def deviation(self, process, t, s):
        return 1.1 * super().deviation(process, t, s)


def test_wrong_noise_is_seen(monkeypatch, results):
    result = results("walk_back")
    right = walk_back.walk(VP(), 1.0, 10_000, 60, 0, "cpu")
    monkeypatch.setattr(walk_back, "Exponential", Loud)
    planted = walk_back.walk(VP(), 1.0, 10_000, 60, 0, "cpu")
    assert float(right.off.max()) < walk_back.bound(result)
    assert float(planted.off.max()) > walk_back.bound(result)
    worse = dataclasses.replace(result, walks=result.walks | {"VP": result.walks["VP"] | {1.0: planted}})
    assert "MORE THAN exact draws" in walk_back.table(worse)
