"""Lesson 5 at reduced size: exact where it says so, and the flow's closed form of one number."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import guidance_sweep as lesson5

from scoresde.plots import DARK, LIGHT

pytestmark = pytest.mark.slow
WEIGHTS = lesson5.WEIGHTS


@pytest.fixture(scope="module")
def result():
    return lesson5.measure(True, "cpu")


def test_guidance_is_exact_at_zero_and_one_and_not_beyond(result):
    """400 quantiles: the flow keeps quantiles, so that what is left is the solver's error, 0.002 at most."""
    apart = lesson5.distance(result.samples["CFG"], result.tilted)
    assert apart[WEIGHTS.index(0.0)] < 2e-3 and apart[WEIGHTS.index(1.0)] < 2e-3
    assert (apart[WEIGHTS.index(2.0) :] > 0.4).all()
    for method in lesson5.METHODS:
        assert lesson5.distance(result.samples[method], result.tilted)[WEIGHTS.index(1.0)] < 2e-3


def test_quantiles_of_the_tilted_law_have_its_moments(result):
    for w in (-1.0, 0.5, 3.0):
        mean, covariance = lesson5.classes().tilted(1, w).moments
        x = result.tilted[WEIGHTS.index(w)]
        assert abs(x.mean() - mean) < 2e-3  # 400 quantiles: the tails beyond 1/800
        assert abs(x.var() - covariance) < 0.02 * covariance


def test_the_reverse_sde_samples_the_conditional_and_another_guided_law(result):
    x, n = result.sde[1.0], len(result.sde[1.0])
    assert abs(x.mean() - 1.1) < 4 * x.std() / n**0.5 + 0.02  # and the step of 60 steps
    flow = result.samples["CFG"][WEIGHTS.index(3.0)]
    assert abs(result.sde[3.0].mean() - flow.mean()) > 10 * x.std() / n**0.5


def test_shares_and_distances_by_hand():
    x = np.array([[0.4, 1.8, 5.0, -1.0]])
    assert lesson5.on_modes(x) == pytest.approx(0.5)
    assert lesson5.distance(np.array([0.0, 1.0]), np.array([0.5, 3.0])) == pytest.approx(1.25)


def test_table_pictures_and_scene(result):
    text = lesson5.table(result)
    assert "CFG with w = 0 and w = 1 samples p(x) and p(x | y): W1 at most 0.00" in text and "The reverse SDE" in text
    for theme in (LIGHT, DARK):
        assert lesson5.draw(result, theme).get_facecolor() is not None
    scene = lesson5.scene(result)
    sizes = [len(control.values) for control in scene.controls]
    lines, numbers = scene.panels
    for frames in (*lines.series.values(), *lines.bars.values(), *numbers.rows.values()):
        assert np.isfinite(frames).all()
        assert all(a in (1, n) for a, n in zip(frames.shape, sizes)) and frames.ndim in (2, 3)
    width = lines.x[1] - lines.x[0]
    outside = 1 - lines.bars["samples"].sum(-1) * width  # samples beyond the picture
    assert (outside > -1e-9).all() and (outside[0, WEIGHTS.index(1.0)] == pytest.approx(0, abs=1e-9))


def test_weights_reach_the_guides():
    x, t = torch.tensor([[0.3]], dtype=torch.float64), 0.5
    for method in lesson5.METHODS:
        one, three = (lesson5.guided(method, w, "cpu").predict("score", x, t) for w in (1.0, 3.0))
        assert abs(three - one) > 0.01
