"""Lesson flow_vs_diffusion at reduced size: its straightness against closed forms, its exact step, its table."""

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import flow_vs_diffusion as lesson_flow

from scoresde import RectifiedFlow, sample, targets
from scoresde.plots import DARK, LIGHT
from scoresde.samplers import Euler

FOUR = math.sqrt(2) * torch.cat([torch.eye(2), -torch.eye(2)]).double()
"""Starts with the normal's mean and covariance: means of what is quadratic in them are exact."""


@pytest.fixture(scope="module")
def result():
    return lesson_flow.measure(True, "cpu")


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [1, 3])
def test_euler_solves_the_flow_of_an_affine_transport_exactly(seed, steps):
    """To rounding: every step is a convex combination of numbers of order one."""
    generator = torch.Generator().manual_seed(seed)
    mean, factor = torch.randn(4, generator=generator).double(), torch.randn(4, 4, generator=generator).double()
    covariance = factor @ factor.mT + 0.01 * torch.eye(4, dtype=torch.float64)
    x = torch.randn(50, 4, generator=generator).double()
    variances, axes = torch.linalg.eigh(covariance)
    truth = mean + x @ (axes * variances.sqrt()) @ axes.mT
    model = lesson_flow.optimal(mean, covariance)
    assert (sample(model, x=x, sampler=Euler(), steps=steps) - truth).abs().max() < 1e-12


def test_the_optimal_flow_carries_the_normal_to_the_gaussian():
    """Its ends have the mean m and the covariance C, so that it is a flow of N(m, C) and not of something else."""
    ends = sample(lesson_flow.optimal(lesson_flow.MEAN, lesson_flow.COVARIANCE), x=FOUR, sampler=Euler(), steps=1)
    assert (ends.mean(0) - lesson_flow.MEAN).abs().max() < 1e-12
    assert (ends.mT.cov(correction=0) - lesson_flow.COVARIANCE).abs().max() < 1e-12


@pytest.mark.parametrize("deviation", [0.2, 1.0, 3.0])
def test_straightness_is_the_closed_form(deviation):
    """(2 − π/2) s an axis; velocities are taken as constant in each step of t^(1/3), an error of O(h²)."""
    model = targets.Gaussian(torch.ones(2).double(), deviation**2).model(RectifiedFlow(), "velocity")
    truth = 2 * (2 - math.pi / 2) * deviation
    coarse, fine = (abs(lesson_flow.fine(model, FOUR, n).straightness[0] / truth - 1) for n in (64, 256))
    assert fine < 1e-3 and 12 < coarse / fine < 20


def test_a_flow_is_straight_only_at_an_even_pace():
    times = torch.linspace(1, 0, 101, dtype=torch.float64)
    start, end = torch.tensor([[0.0, 1.0]]).double(), torch.tensor([[3.0, 5.0]]).double()
    even = start + (1 - times)[:, None, None] * (end - start)
    hasty = start + ((1 - times) ** 2)[:, None, None] * (end - start)
    assert lesson_flow.Flow(times, torch.cat([even, even], 1)).straightness[0] < 1e-24
    # ∫ (2u − 1)² du = 1/3 of the distance's square, 25; less 1/(3 · 100²) of that for a hundred steps
    assert lesson_flow.Flow(times, torch.cat([hasty, hasty], 1)).straightness[0] == pytest.approx(25 / 3, rel=2e-4)


def test_the_gaussian_rows_are_their_formulas(result):
    known, other = result.gaussians.values()
    assert known.bend[0] < 1e-20 and known.error[0] < 1e-12
    assert other.bend[0] == pytest.approx(other.bend[1], rel=1e-3)
    assert other.error[0] == pytest.approx(math.sqrt(float(lesson_flow.COVARIANCE.trace())), rel=1e-12)


def test_the_claims_hold_at_reduced_size(result):
    """Trained for a tenth of the steps, optimal pairs are ten times straighter; the others bend as the exact flow."""
    straight = {name: row.flow.straightness for name, row in result.learned.items()}
    for name in ("rectified flow", "VP diffusion"):
        assert straight[name][0] > 10 * straight["optimal pairs"][0]
        assert straight[name][0] == pytest.approx(result.learned[name].exact, rel=0.35)
    assert result.learned["optimal pairs"].euler[1] < 0.5 * result.learned["rectified flow"].euler[1]
    for row in result.learned.values():
        assert row.euler[max(row.euler)] < row.euler[1]
        assert row.share > 0.85


def test_cost_is_the_fewest_calls():
    found = {1: 1.0, 2: 0.3, 5: 0.4, 9: 0.05}
    assert lesson_flow.cost(found, 0.3) == "2" and lesson_flow.cost(found, 0.1) == "9"
    assert lesson_flow.cost(found, 0.01) == "> 9"


def test_the_table_says_the_claims(result):
    text = lesson_flow.table(result)
    assert "times straighter" in text and "one Euler step is exact" in text and "e-16" in text


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_figure(result, theme):
    figure = lesson_flow.draw(result, theme)
    assert len(figure.axes) == 6 and all(axis.get_xlabel() for axis in figure.axes)
