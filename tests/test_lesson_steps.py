"""Lesson 4, steps against quality, at reduced size: its exact distances, and what it claims of the samplers."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import steps_vs_quality as lesson
from steps_vs_quality import DRAWS, LINE, QUANTILES, SAMPLERS, SHARES, Row

from scoresde import VP
from scoresde.plots import DARK, LIGHT
from scoresde.samplers import Adams

NAMES = list(SAMPLERS)


@pytest.fixture(scope="module")
def result():
    return lesson.measure(True, "cpu")


def drawn(n, seed):
    return LINE.target.sample(n, torch.Generator().manual_seed(seed))[:, 0]


def test_the_quantiles_invert_the_distribution_function():
    u = torch.linspace(1e-6, 1 - 1e-6, 101, dtype=torch.float64)
    assert (LINE.cdf(LINE.quantile(u)) - u).abs().max() < 1e-12
    assert LINE.quantile(torch.tensor([0.0, 1.0], dtype=torch.float64)).tolist() == [-math.inf, math.inf]


def test_w1_is_the_area_between_the_distribution_functions():
    """By the trapezoid on 400,001 points: a jump of F_n costs dx/n, all of them at most dx = 5e-5."""
    x = drawn(37, 1) + 0.1
    z = torch.linspace(-10, 10, 400_001, dtype=torch.float64)
    steps = (x[:, None] <= z).double().mean(0)
    assert LINE.wasserstein(x)[0] == pytest.approx(float(torch.trapezoid((steps - LINE.cdf(z)).abs(), z)), abs=5e-5)


def test_w1_of_one_point_is_the_mean_distance_to_it():
    """E|X − x| of a normal is s (2 φ(z) + z (2 Φ(z) − 1))."""
    line, x = lesson.Line((1.0,), (0.4,), (0.7,)), torch.tensor([1.3], dtype=torch.float64)
    z = (1.3 - 0.4) / 0.7
    phi, cdf = math.exp(-z * z / 2) / math.sqrt(2 * math.pi), 0.5 * (1 + math.erf(z / math.sqrt(2)))
    assert line.wasserstein(x.repeat(2))[0] == pytest.approx(0.7 * (2 * phi + z * (2 * cdf - 1)), abs=1e-12)


def test_the_standard_error_of_w1_is_its_deviation():
    """Over 100 sets that are off by 0.3; the deviation itself is known to 1/√200, and 4 of those are allowed."""
    found = np.array([LINE.wasserstein(drawn(500, seed) + 0.3) for seed in range(100)])
    assert found[:, 1].mean() / found[:, 0].std() == pytest.approx(1, abs=4 / math.sqrt(200))


def test_the_floor_is_what_the_formula_says(result):
    """Sets scatter by half of the floor; of 50, four standard errors."""
    mean, spread, formula = result.floor
    assert abs(mean - formula) < 4 * spread / math.sqrt(50) < 0.5 * formula
    assert LINE.wasserstein(drawn(4000, 3) + 0.15)[0] > formula + 4 * spread  # a shift is seen


def test_the_orders_are_those_declared(result):
    """From 50 to 100 steps the slope is the order to 0.3; Adams is between its orders 3 and 5 there."""
    for name, row in SAMPLERS.items():
        if row.order:
            least, most = (3.5, 5.5) if name.startswith("Adams") else (row.order - 0.3, row.order + 0.3)
            assert least < result.order(name) < most, name


def test_one_step_of_the_first_order_lands_on_the_mean(result):
    """E|x₀ − mean|, but for the step's own spread, which is `slack`; and 2e-4 for the midpoint rule."""
    first, slack = result.first
    for name, noise in (("DDIM", 2e-4), ("DDPM", 4 * slack / math.sqrt(4000))):
        assert abs(result.w1[0, NAMES.index(name)] - first) < slack + noise, name
        assert result.shares[0, NAMES.index(name)].sum() < 0.01


def test_calls_are_counted(result):
    steps = np.array(result.steps)
    assert (result.calls[:, NAMES.index("DDIM")] == steps).all()
    assert (result.calls[:, NAMES.index("Heun")] == 2 * steps - 1).all()  # one call for the step to the data
    assert (result.calls[:, NAMES.index("Adams (default)")] <= steps).all()


def test_many_steps_arrive(result):
    mean, spread, _ = result.floor
    for name in ("DDPM", "Euler–Maruyama", "SA-Solver"):  # with DDPM's remaining bias of 0.02
        assert result.w1[-1, NAMES.index(name)] < mean + 4 * spread + 0.02, name
    for i, row in enumerate(SAMPLERS.values()):
        for k, share in enumerate(SHARES):
            chance = 4 * math.sqrt(0.25 / 4000) if row.order is None else 2 / QUANTILES
            bias = result.w1[-1, i] * 0.7 if row.order else 0.02  # W1 moves weight over distances above 1.5
            assert abs(result.shares[-1, i, k] - share) < chance + bias, (row, k)


def test_the_default_is_the_first_to_arrive_and_a_wrong_score_never_does(result):
    last = result.w1[-1]
    assert last[NAMES.index("Adams (default)")] < 1e-6 < 1e-3 < last[NAMES.index("DDIM")]
    wrong = LINE.target.model(VP()).wrap(lambda model, x, t: 1.02 * model(x, t))
    _, _, w1, error = lesson.run(wrong, Row(Adams(), "", ""), 50, DRAWS)
    assert w1 > 1e-3 and error == 0.0


def test_the_table_says_the_claims(result):
    text = lesson.table(result)
    for name in NAMES:
        assert text.count(name) >= 2
    assert "lands on the data's mean" in text and f"exact {sum(SHARES):.4f}" in text and "by the default" in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_figure_has_four_panels(result, theme):
    figure = lesson.draw(result, theme)
    assert isinstance(figure, Figure) and len(figure.axes) == 4


def test_the_scene_fits_its_controls(result):
    scene = lesson.scene(result)
    shape = tuple(len(control.values) for control in scene.controls)
    lines, numbers = scene.panels
    assert shape == (len(result.steps), len(SAMPLERS))
    assert lines.bars["samples"].shape == (*shape, len(lines.x))
    for frames in (*lines.bars.values(), *lines.series.values()):
        assert np.isfinite(frames).all() and frames.shape[-1] == len(lines.x)
    for frames in numbers.rows.values():
        assert np.isfinite(frames).all() and frames.shape in (shape, (1, 1))
    area = (lines.bars["samples"] * np.diff(lesson.EDGES)).sum(-1)
    assert area[-1] == pytest.approx(1, abs=0.01)
