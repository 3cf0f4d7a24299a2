"""Lesson 8, SDE against ODE under errors of the score: the formulas by other ways, and the samples against them."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from scipy.integrate import solve_ivp

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import sde_vs_ode_errors as lesson
from sde_vs_ode_errors import EARLY, ETAS, LATE, LINE, PROCESS, SIZE, SPREAD, Bias

from scoresde import targets
from scoresde.plots import DARK, LIGHT


@pytest.fixture(scope="module")
def result():
    return lesson.measure(True, "cpu")


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.5])
@pytest.mark.parametrize("middle", [-4.0, 0.0, 4.0])
def test_the_shift_solves_its_equation(eta, middle):
    """dδ = (1 + η²)/2 (δ/(s² + ρ²) + e/ρ) dρ² from noise to data, in log ρ; the solver's tolerance is 1e-9."""
    bias = Bias((middle,))

    def slope(u, delta):
        rho = math.exp(u)
        return (1 + eta**2) * rho**2 * (delta / (SPREAD**2 + rho**2) + bias.at(-2 * u) / rho)

    span = (-middle / 2 + 3, -middle / 2 - 3)
    there = solve_ivp(slope, span, [0.0], rtol=1e-9, atol=1e-12, max_step=0.05).y[0, -1]
    rest = (1 + math.exp(2 * span[1]) / SPREAD**2) ** (-(1 + eta**2) / 2)  # from the window's end to the data
    assert there * rest == pytest.approx(bias.shift(eta, SPREAD), rel=1e-6)


@pytest.mark.parametrize("eta", [0.25, 1.0, 1.5])
def test_a_narrow_window_costs_both_the_same_at_the_crossing(eta):
    at = lesson.crossing(eta, SPREAD)
    ratios = [Bias((at + d,), 0.01).shift(eta, SPREAD) / Bias((at + d,), 0.01).shift(0.0, SPREAD) for d in (-1, 0, 1)]
    assert ratios[0] < 1 < ratios[2] and ratios[1] == pytest.approx(1, abs=1e-4)
    assert lesson.crossing(1.0, SPREAD) == pytest.approx(-math.log(3 * SPREAD**2), abs=1e-12)


def test_no_error_of_this_size_beats_girsanov(result):
    for eta in ETAS[1:]:
        bound = lesson.girsanov(eta, Bias((0,)).square)
        worst = max(0.5 * (Bias((middle,)).shift(eta, SPREAD) / SPREAD) ** 2 for middle in np.linspace(-8, 8, 65))
        assert 0.2 * bound < worst < bound
    logsnr = np.linspace(-8, 8, 4001)
    assert np.trapezoid(Bias((0,)).at(logsnr) ** 2, logsnr) == pytest.approx(Bias((0,)).square, rel=1e-9)


def test_samples_of_normal_data_shift_as_the_formula_says(result):
    """80 steps of order 2 (3 without noise), 0.3 in log-SNR each: 1 %; four times less with twice the steps."""
    assert np.abs(result.measured - result.formula).max() < 0.01
    normal = targets.Gaussian(torch.tensor([0.3], dtype=torch.float64), SPREAD**2).model(PROCESS)
    truth = Bias((0,)).shift(1.0, SPREAD)
    errors = [abs(lesson.shifted(normal, Bias((0,)), lesson.stepper(1.0), steps) - truth) for steps in (80, 160, 320)]
    assert errors[0] / errors[2] > 10  # 16 by order 2
    for name, value in result.others.items():
        assert value == pytest.approx(float(result.formula[ETAS.index(1.0), result.middles.index(LATE)]), rel=0.03), (
            name
        )


def test_a_wrong_formula_would_be_seen(result):
    """Without the factor 1 + η², the prediction is off by half of the shift."""
    late = result.middles.index(LATE)
    off = np.abs(result.measured[:, late] * (1 + np.array(ETAS) ** 2) - result.formula[:, late])
    assert off[0] < 0.01 < off[1:].min()


def test_the_ode_keeps_an_early_error(result):
    """The prediction is that of pure noise; at log-SNR −5 data of variance 1 change it by e^{−5}."""
    predicted = Bias((EARLY,)).early(LINE)
    assert result.dial["early"][0, 0] == pytest.approx(predicted, rel=math.exp(EARLY))
    sizes = [Bias((EARLY,), width).early(LINE) for width in (0.25, 0.5)]
    assert sizes[1] > 1.5 * sizes[0] and SIZE > 0


def test_the_sde_forgives_early_errors_more_the_higher_the_dial(result):
    early, errors = result.dial["early"].T
    assert early[ETAS.index(0.5)] + 2 * errors[ETAS.index(0.5)] < early[0]
    assert early[ETAS.index(1.0)] + 4 * errors[ETAS.index(1.0)] < early[ETAS.index(0.5)]
    assert early[-1] < 0.25 * early[0]


def test_late_errors_are_those_of_normal_data_with_the_modes_own_spread(result):
    """For the flow to 3 %, as each mode feels the other little; with noise to 4 standard errors."""
    for eta in ETAS:
        value, error = result.dial["late"][ETAS.index(eta)]
        predicted = abs(Bias((LATE,)).shift(eta, LINE.deviations[0]))
        assert abs(value - predicted) < 0.03 * predicted + 4 * error, eta
    assert result.dial["late"][-1, 0] > result.dial["late"][0, 0]


def test_without_errors_all_are_at_the_floor(result):
    """W1 of a set scatters by half of the floor; the flow has none, and 80 steps of order 3."""
    none = result.dial["none"][:, 0]
    assert none[0] < 1e-3 and none[1:].max() < 3 * result.floor


def test_the_table_says_the_claims(result):
    text = lesson.table(result)
    for words in ("crossing", "Girsanov", "floor of exact samples", "leaves", "times the ODE's", "the best dial tried"):
        assert words in text
    assert "EulerMaruyama" in text and "FlowSDE" in text


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_figure_has_three_panels(result, theme):
    figure = lesson.draw(result, theme)
    assert isinstance(figure, Figure) and len(figure.axes) == 3
