"""What the hypothesis strategies draw: everything, nothing else, and plain things in the end."""

import math

import pytest
import torch
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis import strategies as st

from scoresde import EDM, PREDICTIONS, VE, VP, Discrete, Process, RectifiedFlow, process, sample, targets
from scoresde.samplers import DDIM
from scoresde.testing import examine, strategies
from tests.problems import PROCESSES, name

few = settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow], deadline=None, derandomize=True)


def plainest(strategy, condition=lambda value: True):
    return find(strategy, condition, settings=settings(max_examples=2000, database=None, deadline=None))


def some(strategy, condition):
    """The first that fits, not made plainer."""
    quick = settings(max_examples=2000, database=None, deadline=None, phases=[Phase.generate])
    return find(strategy, condition, settings=quick)


# --- processes and times ---------------------------------------------------------------------------------------


@settings(few, max_examples=12)
@given(strategies.processes())
def test_every_process_that_is_drawn_conforms(drawn):
    report = examine(drawn)
    assert report.passed, str(report)


def test_every_class_of_process_is_drawn():
    classes = {getattr(process, n) for n in process.__all__} - {Process, process.ddpm}
    for each in classes:
        assert isinstance(some(strategies.processes(), lambda drawn, each=each: isinstance(drawn, each)), each)


def test_processes_shrink_to_the_plain():
    assert plainest(strategies.processes()) == RectifiedFlow()
    assert len(plainest(strategies.processes(), lambda p: isinstance(p, Discrete) and len(p.betas) < 50).betas) == 3


@few
@given(st.sampled_from(PROCESSES), st.data())
def test_times_lie_in_the_interval(process, data):
    t = data.draw(strategies.times(process))
    assert isinstance(t, float) and 0 <= t <= process.t_max
    batch = data.draw(strategies.times(process, 4, dtype=torch.float32))
    assert batch.shape == (4,) and batch.dtype == torch.float32
    process.check_time(batch)
    assert data.draw(strategies.times(process, 0)).shape == ()
    assert 0 < data.draw(strategies.times(process, ends=False)) < process.t_max


@pytest.mark.parametrize("process", [VP(), EDM()], ids=name)
def test_both_ends_and_what_is_next_to_them_are_drawn(process):
    for wanted in (
        lambda t: t == 0.0,
        lambda t: t == process.t_max,
        lambda t: 0 < t < 1e-6 * process.t_max,
        lambda t: process.t_max * (1 - 1e-6) < t < process.t_max,
    ):
        assert wanted(plainest(strategies.times(process), wanted))
    assert plainest(strategies.times(process)) == process.t_max / 2


# --- predictions -----------------------------------------------------------------------------------------------


@settings(few, max_examples=6)
@given(strategies.predictions())
def test_every_prediction_that_is_drawn_conforms(prediction):
    report = examine(prediction, "prediction", processes=[VP(), RectifiedFlow()])
    assert report.passed, str(report)


def test_names_and_rows_are_drawn():
    for each in PREDICTIONS:
        assert plainest(strategies.predictions(), lambda p, each=each: p == each) == each
    row = plainest(strategies.predictions(), callable)
    assert isinstance(row, strategies.Row) and "Row(u=0.0" in repr(row)


# --- states ----------------------------------------------------------------------------------------------------


@few
@given(strategies.states())
def test_states_are_finite_and_of_any_form(x):
    assert x.ndim >= 1 and len(x) <= 3 and x.dtype in strategies.DTYPES
    assert torch.isfinite(x).all() and (x.abs() <= 10).all()


@few
@given(strategies.states((2, 3), torch.float32, bound=1.0))
def test_states_of_one_form(x):
    assert x.shape == (2, 3) and x.dtype == torch.float32 and x.abs().max() <= 1


def test_layouts_and_dtypes_are_drawn():
    for wanted in (
        lambda x: not x.is_contiguous() and 0 not in x.stride(),
        lambda x: len(x) > 1 and x.stride(0) == 0,
        lambda x: x.ndim == 1,
        lambda x: len(x) == 0 and x.ndim == 3,
        lambda x: x.ndim == 4,
        lambda x: x.dtype == torch.float16,
    ):
        assert wanted(some(strategies.states(), wanted))
    assert torch.equal(plainest(strategies.states()), torch.zeros(1, dtype=torch.float64))
    assert plainest(strategies.states(st.just((0, 2)))).shape == (0, 2)


# --- mixtures and grids ----------------------------------------------------------------------------------------


@few
@given(strategies.mixtures())
def test_mixtures_are_laws(mixture):
    assert isinstance(mixture, targets.GaussianMixture) and 1 <= mixture.dim <= 3
    assert mixture.variances.min() >= 0.05 - 1e-9 and mixture.means.abs().max() <= 2
    x = mixture.sample(3)
    assert x.dtype == torch.float64 and torch.isfinite(mixture.log_prob(x)).all()


@few
@given(strategies.mixtures(dim=1, modes=2))
def test_mixtures_of_one_form_integrate_to_one(mixture):
    assert mixture.means.shape == (2, 1)
    x = torch.linspace(-8, 8, 2000, dtype=torch.float64)
    total = torch.trapezoid(mixture.log_prob(x[:, None]).exp(), x)
    assert math.isclose(float(total), 1.0, rel_tol=1e-6)  # six deviations of at most 0.87 beyond the means


@few
@given(st.sampled_from([*PROCESSES, Discrete([0.9])]), st.data())
def test_grids_go_from_noise_to_data(process, data):
    grid = data.draw(strategies.grids(process))
    assert grid.dtype == torch.float64 and (grid.diff() < 0).all()
    assert grid[-1] == 0.0 and 0 < grid[0] <= process.t_max and 2 <= len(grid) <= 13


@few
@given(st.data())
def test_samplers_take_any_grid(data):
    grid = data.draw(strategies.grids(VE()))
    assert torch.isfinite(sample(targets.Gaussian([0.0], 1.0).model(VE()), (2, 1), DDIM(), grid=grid)).all()


def test_one_step_and_many_are_drawn():
    assert len(plainest(strategies.grids(VP()))) == 2
    assert len(plainest(strategies.grids(VP(), steps=9))) == 10


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: strategies.times(VP), TypeError, r"write VP\(\)"),
        (lambda: strategies.times(VP(), -1), ValueError, "size must be at least 0"),
        (lambda: strategies.times(VP(), dtype="float"), TypeError, "dtype must be a floating"),
        (lambda: strategies.times(VP(), dtype=torch.int64), TypeError, "dtype must be a floating"),
        (lambda: strategies.grids("VP"), TypeError, "process must be a Process"),
        (lambda: strategies.states((2, 0)), ValueError, r"shape\[1\] must be at least 1"),
        (lambda: strategies.states(bound=-1), ValueError, "bound must be positive"),
        (lambda: strategies.states(dtype=torch.int64), TypeError, "dtype must be a floating"),
        (lambda: strategies.mixtures(dim=0), ValueError, "dim must be at least 1"),
        (lambda: strategies.mixtures(modes=1.5), TypeError, "modes must be a whole number"),
        (lambda: strategies.grids(VP(), 0), ValueError, "steps must be at least 1"),
    ],
)
def test_bad_input_is_refused_at_once(call, error, message):
    with pytest.raises(error, match=message):
        call()
