"""Lesson one_score_many_names at reduced size: what agrees to rounding, what converges, and what only in law."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "experiments"))
import one_score_many_names as names

from scoresde import EDM, VP, Model, metrics
from scoresde.plots import DARK, LIGHT
from scoresde.samplers import Adams

ROUNDING = 1e-11
"""Double precision's 1e-16, times what a network trained for 150 steps makes of it in five long steps."""


@pytest.fixture(scope="module")
def result():
    return names.measure(True, "cpu")


def test_a_predictions_name_changes_nothing(result):
    assert list(result.names) == list(names.SAMPLERS) and len(result.names) == 10
    assert max(result.names.values()) < ROUNDING


def test_the_process_changes_nothing_for_those_that_step_in_ratio(result):
    """With the same noise nothing for DDPM and SA-Solver either. It does for those that step in t: no blind test."""
    for kind in (*names.IN_RATIO, "DDPM", "SA-Solver"):
        assert len(result.processes[kind]) == 5 and max(result.processes[kind].values()) < ROUNDING
    for kind in (*names.IN_TIME, "Euler–Maruyama"):
        assert min(value for name, value in result.processes[kind].items() if name != "VP") > 1e-4


def test_euler_and_heun_converge_to_the_same_points(result):
    """From 20 to 40 steps by a factor of 2 and of 4, less what the coarse end still lacks."""
    for name in names.PROCESSES:
        for kind, factor in (("Euler", 1.5), ("Heun", 2.8)):
            found = result.ends[kind][name]
            assert found[20] / found[40] > factor and found[40] < found[10] / factor
    assert result.ends["Adams"]["VP"][40] < 2e-3


def test_euler_is_ddim_where_time_is_the_ratio_or_the_path_is_straight(result):
    for name in ("EDM", "rectified"):
        for steps, value in result.ends["Euler"][name].items():
            assert abs(value - result.ends["DDIM"]["VP"][steps]) < ROUNDING


def test_the_laws_are_the_datas_where_the_network_is_exact():
    """The lesson's samplers with the mixture's own score, to 4 standard errors; a shift of one deviation is seen."""
    exact = names.mixture().marginal(EDM(), names.LAST)
    source = torch.Generator().manual_seed(5)
    real, other = exact.sample(1200, source).double(), exact.sample(600, source).double()
    model, y = names.mixture().model(VP(), "v"), names.start(600, 3, "cpu")
    for kind in ("Adams", *names.STOCHASTIC):
        points = names.drawn(model, names.PROCESSES["EDM"], names.SAMPLERS[kind], 40, y)
        law = metrics.measure("energy_distance", points, real, other)
        assert law.value < 4 * law.standard_error
        moved = metrics.measure("energy_distance", points + 0.25, real, other)
        assert moved.value > 4 * moved.standard_error


def test_a_wrong_name_is_seen():
    """A network that says x0 and is called v: the test above would not pass on anything."""
    model, y = names.mixture().model(VP(), "v"), names.start(16, 1, "cpu")
    right = names.read(model, "x0")
    ends = [names.drawn(m, VP(), Adams(), 10, y) for m in (model, right, replace(right, prediction="v"))]
    assert names.rms(ends[1] - ends[0]) < 1e-12 and names.rms(ends[2] - ends[0]) > 0.1
    assert isinstance(right, Model)


def test_grids_are_the_same_ratios():
    for process in names.PROCESSES.values():
        times = names.grid(process, 20)
        ratio = process.sigma(times) / process.alpha(times)
        expected = torch.linspace(names.FIRST ** (1 / 7), names.LAST ** (1 / 7), 21, dtype=torch.float64) ** 7
        assert (ratio / expected - 1).abs().max() < 1e-11  # VP's σ² is known to 1e-16 and more than 1e-5


def test_the_table_says_the_claims(result):
    text = names.table(result)
    assert "changes nothing but rounding" in text and "Adams, DDIM, DPM-Solver++, DEIS, UniPC, DDPM, SA-Solver;" in text
    assert "standard errors" in text


@pytest.mark.parametrize("theme", [LIGHT, DARK])
def test_the_figure(result, theme):
    figure = names.draw(result, theme)
    assert len(figure.axes) == 3 and all(axis.get_xlabel() for axis in figure.axes)
