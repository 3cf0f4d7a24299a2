"""The exponential stepper's strong and weak orders, and planted errors that cost them."""

import math
from dataclasses import dataclass

import pytest
import torch

from scoresde import VP, Cosine, RectifiedFlow, sample, targets
from scoresde.samplers import DEIS, ODE, DPMSolver, DPMSolverPP, Exponential, SASolver
from scoresde.samplers.quadrature import moments
from tests.problems import exact_flow, gaussian, mixture, name, slope
from tests.test_exponential import even, rms, starts

# --- strong orders ---------------------------------------------------------------------------------------------

ORDERS = [
    (Exponential("x0", 1), 1), (Exponential("x0", 2), 2), (Exponential("x0", 3), 3), (Exponential("x0", 4), 4),
    (DEIS(1), 1), (DEIS(2), 2), (DEIS(3), 3), (DEIS(4), 4),
    (DPMSolver(2), 2), (DPMSolver(3), 3), (DPMSolver(2, rule="published"), 2), (DPMSolver(3, rule="published"), 3),
    (DPMSolver(2, "multistep", "published"), 2), (DPMSolver(3, "multistep", "published"), 2),
    (DPMSolverPP(2, method="singlestep"), 2), (DPMSolverPP(3, method="singlestep"), 3),
    (DPMSolverPP(2, method="singlestep", rule="published"), 2), (DPMSolverPP(2, rule="published"), 2),
    (DPMSolverPP(3, method="singlestep", rule="published"), 3), (DPMSolverPP(3, rule="published"), 2),
    (SASolver(1, 1, 0.0), 1), (SASolver(1, 2, 0.0), 2), (SASolver(2, 2, 0.0), 2), (SASolver(2, 3, 0.0), 3),
    (SASolver(2, 2, 0.0, "published"), 2), (Exponential("noise", 2, corrector=3), 3),
]  # fmt: skip


LATE = {Exponential("x0", 3): 160, DEIS(3): 160, DEIS(4): 320, SASolver(2, 2, 0.0): 160}
"""Where terms of two orders cancel at 80 steps: the steps from which the order shows."""


@pytest.fixture(scope="module")
def truth():
    """The end of the mixture's flow, by 2000 steps of order 4, after another package's method to 1e-8."""
    process = VP()
    times = even(process, 2000)
    model, x = mixture().model(process, "v"), starts(process, times[0])
    end = sample(model, x=x, sampler=DEIS(4), grid=times)
    other = sample(model, x=x, sampler=ODE("dopri8", 1e-12, 1e-12), grid=[times[0], times[-1]])
    assert (end - other).abs().max() < 1e-8
    return end


@pytest.mark.parametrize(("sampler", "order"), ORDERS, ids=repr)
def test_strong_order(sampler, order, truth):
    process, few = VP(), LATE.get(sampler, 80)
    counts = (few, 2 * few)
    for target in (gaussian(), mixture()):
        model, errors = target.model(process, "v"), []
        for n in counts:
            times = even(process, n)
            x = starts(process, times[0])
            end = exact_flow(target, process, x, times[0], times[-1]) if len(target.weights) == 1 else truth
            errors.append(rms(sample(model, x=x, sampler=sampler, grid=times) - end))
        assert abs(slope(errors, counts) - order) < 0.2, (target, errors)


@pytest.mark.parametrize("process", [VP(), RectifiedFlow(), Cosine()], ids=name)
@pytest.mark.parametrize(
    ("sampler", "order"),
    [(DPMSolverPP(2), 2), (DPMSolverPP(3), 3), (DEIS(2), 2), (DEIS(3), 3), (DPMSolver(3), 3), (SASolver(2, 3, 0.0), 3)],
    ids=repr,
)
def test_strong_order_from_noise_to_data_on_its_own_grid(sampler, order, process):
    """The ends are the sampler's own business."""
    target, counts = gaussian(), (100, 200)
    model, x = target.model(process, "v"), starts(process, process.t_max)
    truth = exact_flow(target, process, x, process.t_max, 0.0)
    errors = [rms(sample(model, x=x, sampler=sampler, steps=n) - truth) for n in counts]
    assert abs(slope(errors, counts) - order) < 0.2, errors


@pytest.mark.parametrize("plant", ["weight", "old sigma", "time", "half"])
def test_a_planted_error_costs_the_order(plant, truth):
    @dataclass(frozen=True)
    class Wrong(DPMSolverPP):
        def integrals(self, z, n):
            exact = moments(z, n)
            return (*exact[:-1], exact[-1] * (0.5 if plant == "half" and n == 2 else 1.0))

        def factors(self, process, a, s, nodes):
            found = super().factors(process, a, s, nodes)
            if plant == "weight":
                found[-1] *= 1.01
            if plant == "time" and len(nodes) > 1:  # the prediction before taken for one of a step earlier
                h = nodes[-1].place - nodes[-2].place
                return super().factors(process, a, s, [nodes[0]._replace(place=nodes[0].place - h), nodes[1]])
            return found

        def gain(self, process, t, s):
            if plant == "old sigma":
                return math.sqrt(process.at("sigma", s) / process.at("sigma", t))
            return super().gain(process, t, s)

    process, counts = VP(), (80, 160)
    model, errors = mixture().model(process, "v"), []
    for n in counts:
        times = even(process, n)
        errors.append(rms(sample(model, x=starts(process, times[0]), sampler=Wrong(2), grid=times) - truth))
    assert slope(errors, counts) < 1.5, errors


# --- weak orders -----------------------------------------------------------------------------------------------


def propagate(sampler, model, times):
    """Mean and variance at the end for normal data in one dimension, exactly: every step is affine in x and ξ.

    One batch: 0 without noise, 1 without noise, and 0 with one of the ξ equal to 1.
    """
    n = len(times) - 1
    x, draws = torch.zeros(n + 2, 1, dtype=torch.float64), iter(torch.eye(n + 2, dtype=torch.float64)[2:, :, None])
    x[1] = 1.0
    *_, end = sampler.run(model, x, times, lambda shape: next(draws))
    origin, gain, *noise = (end[:1], *(end[1:] - end[0]))
    mean, covariance = model.moments
    alpha, sigma = model.process.at("alpha", times[0]), model.process.at("sigma", times[0])
    variance = float(gain) ** 2 * (alpha**2 * float(covariance) + sigma**2)
    return float(origin + gain * alpha * mean), variance + float(torch.stack(noise).square().sum())


WEAK = [
    (DPMSolverPP(1, 1.0), 1), (DPMSolverPP(2, 1.0), 2), (DPMSolverPP(2, 0.5), 2),
    (DPMSolverPP(2, 1.0, "singlestep"), 2), (DPMSolverPP(2, 1.0, rule="published"), 2), (DPMSolverPP(3, 1.0), 2),
    (DPMSolverPP(3, 1.0, rule="published"), 2),
    (Exponential("noise", 1, 1.0), 1), (Exponential("noise", 2, 1.0), 2),
    (Exponential("noise", 2, 1.0, "singlestep"), 2), (SASolver(1, 1), 1), (SASolver(1, 2), 2), (SASolver(), 2),
    (SASolver(rule="published"), 2), (SASolver(3, 3), 2),
]  # fmt: skip


@pytest.mark.parametrize(("sampler", "order"), WEAK, ids=repr)
def test_weak_order_by_exact_propagation(sampler, order):
    process, counts, errors = VP(), (100, 200), []
    for n in counts:
        times, error = even(process, n, 4.0, 0.25), 0.0
        alpha, sigma = process.at("alpha", times[-1]), process.at("sigma", times[-1])
        for spread in (0.4, 1.7):
            model = targets.Gaussian(torch.tensor([0.7], dtype=torch.float64), spread).model(process, "v")
            mean, variance = propagate(sampler, model, times)
            error += abs(mean - 0.7 * alpha) + abs(variance - spread * alpha**2 - sigma**2)
        errors.append(error)
    above = 0.8 if sampler == SASolver() else 0.3  # its error of order 2 is small beside that of order 3
    assert -0.3 < slope(errors, counts) - order < above, errors


def test_weak_order_sees_a_planted_error():
    @dataclass(frozen=True)
    class Wrong(DPMSolverPP):
        def deviation(self, process, t, s):
            return super().deviation(process, t, s) * 1.01

    process, errors = VP(), []
    model = targets.Gaussian(torch.tensor([0.7], dtype=torch.float64), 0.4).model(process, "v")
    for n in (100, 200):
        times = even(process, n, 4.0, 0.25)
        alpha, sigma = process.at("alpha", times[-1]), process.at("sigma", times[-1])
        errors.append(abs(propagate(Wrong(2, 1.0), model, times)[1] - 0.4 * alpha**2 - sigma**2))
    assert slope(errors, (100, 200)) < 0.5
