"""Lesson 9, Langevin dynamics between modes: its predictions by other ways, and the chains against them."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import langevin_mixing as lesson
from langevin_mixing import FAR, PROCESS, WEIGHT, Wells

from scoresde.plots import DARK, LIGHT


@pytest.fixture(scope="module")
def result():
    return lesson.measure(True, "cpu")


def test_a_single_well_relaxes_in_its_variance():
    """The Ornstein–Uhlenbeck process: gap 1/v; the grid of 801 places has an error of (dx)²/8v."""
    assert Wells(1e-9).relaxation == pytest.approx(Wells(1e-9).variance, rel=1e-3)


def test_the_share_begins_in_the_mode_and_ends_at_the_truth():
    wells = Wells(5.0)
    share = wells.share(np.array([0.0, 50 * wells.relaxation]))
    begun = 0.5 * (1 + math.erf(wells.place / math.sqrt(2 * wells.variance)))
    assert share == pytest.approx([begun, float(wells.left(PROCESS.at("sigma", 0.0)))], abs=1e-3)


def test_the_truth_at_a_noise_level_is_the_targets():
    wells = Wells(6.0)
    for t in (0.2, 0.6):
        x = wells.target().marginal(PROCESS, t).sample(100_000, torch.Generator().manual_seed(1))
        truth = float(wells.left(PROCESS.at("sigma", t)))
        assert abs(float(lesson.fraction(x)) - truth) < 4 * math.sqrt(truth * (1 - truth) / 1e5)


def test_the_wait_is_the_mean_first_passage_time():
    """1/gap → π(1 − π) ∫ dx/p between the modes, as the barrier grows; Kramers' formula is behind by O(1/barrier)."""
    for distance, close in ((8.0, 0.01), (9.0, 0.005)):
        wells = Wells(distance)
        (x, v), (one, top, two) = wells.line, wells.barrier
        passage = WEIGHT * (1 - WEIGHT) * np.trapezoid(np.exp(v[one : two + 1]), x[one : two + 1])
        assert wells.relaxation == pytest.approx(passage, rel=close)
        assert 1 < wells.relaxation / wells.kramers < 1 + 3 / (v[top] - v[one])
    assert Wells(9.0).relaxation > 4 * Wells(8.0).relaxation


def test_the_committor_has_a_constant_current():
    """(p h')' = 0 between the modes, h = 1 in the left one and 0 in the right one."""
    wells = Wells(5.0)
    (x, v), (one, _, two) = wells.line, wells.barrier
    inside = slice(one + 2, two - 2)
    current = np.exp(-v) * np.gradient(wells.committed(x), x)
    assert current[inside] == pytest.approx(current[inside].mean(), rel=0.01)
    assert wells.committed(np.array([-9.0, x[one], x[two], 9.0])).tolist() == pytest.approx([1, 1, 0, 0], abs=1e-12)


def test_plain_langevin_relaxes_as_predicted(result):
    """At the 10th, 20th and last of 30 times, 4 standard errors; other distances by 0.5 are seen."""
    run = result.begun[6.0]
    for k in (10, 20, 30):
        assert abs(run.left[k] - run.truth[k]) < 4 * run.errors[k]
    for wrong in (5.5, 6.5):
        wells = Wells(wrong)
        until = run.calls[-1] / 2 * lesson.STEP * wells.variance
        assert abs(run.left[-1] - wells.share(np.array([until]))[0]) > 4 * run.errors[-1]
    assert abs(result.begun[4.0].off) < 4


def test_far_apart_plain_langevin_is_stuck_and_the_others_are_right(result):
    stuck = result.ways["plain Langevin"]
    assert abs(stuck.left[-1] - result.basins[0]) < 4 * result.basins[1] + 1 / len(stuck.points)
    assert stuck.off > 20 and result.needed > 1e12
    assert (stuck.left[5:] == stuck.left[-1]).all()  # not one chain crossed
    for name in ("annealed Langevin", "predictor–corrector"):
        assert abs(result.ways[name].off) < 4, name
        spread = result.ways[name].points[:, 1].std() / lesson.DEVIATION
        assert abs(spread - 1) < 4 / math.sqrt(2 * len(stuck.points)) + 0.03  # the steps' own bias


def test_the_ways_spend_the_same_calls(result):
    calls = [run.calls[-1] for run in result.ways.values()]
    assert max(calls) - min(calls) <= 2 and calls[0] == lesson.LEVELS * lesson.INNER


def test_an_annealing_that_begins_too_late_is_seen(result):
    """From wide noise straight to the last levels: the weights of the basins, as plain Langevin's."""
    model = Wells(FAR).target().model(PROCESS)
    times = PROCESS.time(-2 * torch.linspace(math.log(0.2), math.log(0.01), 20, dtype=torch.float64))
    noise = PROCESS.prior((1000, 2), generator=torch.Generator().manual_seed(0)).double()
    x = lesson.sample(model, sampler=lesson.AnnealedLangevin(5), grid=times, x=noise, seeds=range(1000))
    assert abs(float(lesson.fraction(x)) - WEIGHT) > 10 * math.sqrt(WEIGHT * (1 - WEIGHT) / 1000)


def test_the_table_says_the_claims(result):
    text = lesson.table(result)
    for words in ("Kramers", "Fokker–Planck", "committor", "annealed Langevin", "predictor–corrector", "10^"):
        assert words in text
    assert max(map(len, text.splitlines())) <= 120


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_figure_has_five_panels(result, theme):
    figure = lesson.draw(result, theme)
    assert isinstance(figure, Figure) and len(figure.axes) == 5
