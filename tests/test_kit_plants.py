"""Wrong processes and predictions, planted: the kit names what is wrong with each, and nothing else."""

import random
import threading

import pytest
import torch

from scoresde import VE, VP, Process, RectifiedFlow
from scoresde.testing import PROPERTIES, examine, properties
from scoresde.testing.strategies import Row

# --- processes -------------------------------------------------------------------------------------------------


class Own(Process):
    def alpha(self, t):
        return torch.cos(t * torch.pi / 2)

    def sigma(self, t):
        return torch.sin(t * torch.pi / 2)


class WrongSlope(VP):
    def sigma_dot(self, t):
        return 1.01 * super().sigma_dot(t)


class Rising(Own):
    def alpha(self, t):
        return 1 + 0.5 * t

    def sigma(self, t):
        return 5 * t


class Cancelling(Own):
    def alpha(self, t):
        return torch.exp(-5 * t**2)

    def sigma(self, t):
        return (1 - self.alpha(t) ** 2).sqrt()  # zero below 1e-8, where digits cancel


class Rooted(Own):
    """As one writes it first: σ has the rounding of 1 next to t = 0, its derivative has not; g is ∞ − ∞ at 0."""

    def alpha(self, t):
        return torch.exp(-2 * t)

    def sigma(self, t):
        return (1 - torch.exp(-4 * t)).sqrt()


class Turning(Own):
    def alpha(self, t):
        return torch.cos(2.2 * t)

    def sigma(self, t):
        return torch.sin(2.2 * t)


class Closed(Rooted):
    """With the closed form of the derivative, which shows how few digits σ has."""

    def sigma_dot(self, t):
        return 2 * torch.exp(-4 * t) / (-torch.expm1(-4 * t)).sqrt()


class Single(Own):
    def alpha(self, t):
        return torch.cos(t.float() * torch.pi / 2)


class Unwritten(Own):
    def alpha(self, t):
        return torch.cos(t * self.rate)


class Kinked(Own):
    def alpha(self, t):
        return torch.where(t < 0.4, 1 - t, (1 - t) * (1 - 0.3 * (t - 0.4)))

    def sigma(self, t):
        return t


class Reversed(Own):
    def alpha(self, t):
        return t

    def sigma(self, t):
        return 1 - t


class VarianceForDeviation(VP):
    def diffusion(self, t):
        return self.beta(t)


class WrongTime(VP):
    def time(self, logsnr):
        return VP.time(self, logsnr) ** 2


class UnitPrior(VE):
    def prior(self, shape, generator=None):
        return torch.randn(shape, generator=generator)


class GlobalPrior(VP):
    def prior(self, shape, generator=None):
        return torch.randn(shape)


class LoudPerturb(VP):
    def perturb(self, x0, t, noise=None, generator=None):
        x, noise = super().perturb(x0, t, noise, generator)
        return 1.01 * x, noise


class OneTime(Own):
    def alpha(self, t):
        return 1 - t if t < 0.5 else (1 - t) ** 1  # one time only

    def sigma(self, t):
        return t


class Short(Own):
    def alpha(self, t):
        return torch.cos(t)

    def sigma(self, t):
        return torch.sin(t)


class Endless(Own):
    t_min = 2.0


class Scaled(Own):
    def alpha(self, t):
        return 0.99 * torch.cos(t * torch.pi / 2)


class Lenient(Own):
    def check_time(self, t):
        pass


class NotANumber(VP):
    def diffusion(self, t):
        return (self.beta(t) * t).sqrt() / t.sqrt()


class Negative(VP):
    def diffusion(self, t):
        return -super().diffusion(t)


class Branching(Own):
    def alpha(self, t):
        if (t > 1.0).any():
            raise ValueError("t")
        return torch.cos(t * torch.pi / 2)


class Locked(Own):
    def __init__(self):
        self.lock = threading.Lock()


class Twofold(Own):
    """For a single time another function, between 0.5 and 0.53."""

    def alpha(self, t):
        u = (t - 0.515) / 0.015
        dip = torch.where(u.abs() < 1, torch.cos(u * torch.pi / 2) ** 4, 0.0)
        return torch.cos(t * torch.pi / 2) * (1 - (0.9 * dip if t.ndim == 0 else 0.0))


PROCESSES = {
    Own: set(),
    Endless: {"has an interval of time"},
    OneTime: {"answers numbers and tensors"},
    Scaled: {"begins at the data"},
    Reversed: {"begins at the data", "alpha falls", "sigma/alpha rises"},
    Turning: {"alpha falls"},
    Short: {"ends at noise"},
    Rising: {"alpha falls"},
    Cancelling: {"sigma/alpha rises"},
    Kinked: {"is smooth"},
    WrongSlope: {"derivatives are those"},
    Rooted: {"has both ends"},
    VarianceForDeviation: {"drift and diffusion follow"},
    Negative: {"noise is never taken away"},
    NotANumber: {"has both ends"},
    WrongTime: {"time inverts logsnr"},
    Lenient: {"refuses times outside"},
    LoudPerturb: {"perturb is alpha x0 + sigma e"},
    UnitPrior: {"prior is the noise of x_T"},
    GlobalPrior: {"prior is the noise of x_T"},
    Branching: {"works under vmap and jvp"},
    Locked: {"survives deepcopy"},
    Twofold: {"carries a Gaussian"},
}


@pytest.mark.parametrize("wrong", PROCESSES, ids=lambda c: c.__name__)
def test_wrong_processes(wrong):
    report = examine(wrong())
    assert set(report.failed) == PROCESSES[wrong], str(report)


def test_every_property_of_a_process_can_fail():
    assert set().union(*PROCESSES.values()) == set(map(str, PROPERTIES["process"]))


def found(part, name, kind=None, **settings):
    return next(case for case in properties(part, kind, **settings) if str(case) == name).find()


def test_the_counter_example_is_the_simplest():
    finding = found(Rising(), "alpha falls")
    assert finding.where == "t = 0.0, then 1.0" and finding.what == "α goes from 1 to 1.5"
    finding = found(WrongSlope(), "derivatives are those")
    assert finding.where == "sigma(0.5)" and finding.what == "sigma_dot is 0.418139, differences give 0.413999"
    finding = found(Kinked(), "is smooth")
    assert finding.what == "its slope goes from -1.036 to -1.18 at t = 0.4" or "at t = 0.4" in finding.what


def test_digits_that_sigma_has_lost_are_named():
    finding = found(Closed(), "derivatives are those")
    assert "sigma has only 8 digits there: write 1 − α² as −expm1(2 log α)" in finding.what, finding


def test_a_difference_is_shown_where_it_is_greatest():
    what = found(Single(), "answers numbers and tensors").what
    assert "-1.11072 and -1.11072, apart by 7.2e-09, at t = 0.5" in what
    what = found(averaged, "is a row of numbers", "prediction", processes=ON).what
    assert what.startswith("b, for times together and alone, is -0.") and "at t = 0.001" in what


def test_a_part_that_raises_is_not_blamed_for_what_it_did_not_do():
    report = examine(Unwritten())
    assert set(report.failed) == {"has an interval of time", "answers numbers and tensors"}
    what = found(Unwritten(), "has an interval of time").what
    assert "no attribute 'rate' (at test_kit_plants.py:" in what and "more noise" not in str(report)
    assert found(Unwritten(), "ends at noise").reason == "first mend: answers numbers and tensors"


# --- predictions -----------------------------------------------------------------------------------------------


def restless(process, t):
    return 1.0, -1.0 - random.random()


def averaged(process, t):
    return process.alpha(t).mean(), -process.sigma(t).mean()


class Tiring:
    """x₀ − ε, which changes its mind when it has been asked often enough."""

    def __init__(self, patience):
        self.left = patience

    def __call__(self, process, t):
        self.left -= 1
        return 1.0, -1.0 + 1e-3 * min(self.left, 0)


def hasty(process, t):
    assert t.min() > 1e-9, "too early"
    return 1.0, -1.0


ON = [VP(), RectifiedFlow()]
PREDICTIONS = {
    "x0 - noise": (lambda process, t: (1.0, -1.0), set()),
    "x0 + noise": (lambda process, t: (1.0, 1.0), {"determines x0 and noise"}),
    "x itself": (lambda process, t: (process.alpha(t), process.sigma(t)), {"determines x0 and noise"}),
    "the sign of v": (lambda process, t: (process.sigma(t), process.alpha(t)), {"determines x0 and noise"}),
    "a list": (lambda process, t: [1.0, -1.0], {"is a row of numbers"}),
    "random": (restless, {"is a row of numbers"}),
    "mean over times": (averaged, {"is a row of numbers"}),
    "fails at 0": (hasty, {"has ends or says so"}),
    "in millionths": (lambda process, t: (1e-6, -1e-6), {"serves in every dtype"}),
    "all but x": (Row(1.0, 1e-10), {"serves in every dtype", "serves samples and likelihoods"}),
}


@pytest.mark.parametrize("what", PREDICTIONS)
def test_wrong_predictions(what):
    row, named = PREDICTIONS[what]
    report = examine(row, "prediction", processes=ON)
    assert set(report.failed) == named, str(report)


LATE = ("converts to and from the others", "is affine")


@pytest.mark.parametrize("name", LATE)
def test_predictions_that_change_their_mind(name):
    """By algebra all rows obey these; what does not is no function of process and t."""
    row = Tiring(10**6)
    cases, known = properties(row, "prediction", processes=ON), {}
    at = list(map(str, cases)).index(name)
    assert all(case.find(known).passed for case in cases[:at])
    row.left = 0
    assert not cases[at].find(known).passed


def test_every_property_of_a_prediction_can_fail():
    named = set(LATE).union(*(named for _, named in PREDICTIONS.values()))
    assert named == set(map(str, PROPERTIES["prediction"]))
