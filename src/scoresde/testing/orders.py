"""Errors of samplers on exact problems: of end points for ODE samplers, of laws for SDE samplers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import pairwise, product
from typing import Any

import numpy as np
import torch
from scipy.interpolate import make_interp_spline
from torch import Tensor

from scoresde.model import Model
from scoresde.process import Process
from scoresde.samplers import Exponential, Sampler, sample
from scoresde.testing.exact import Problem

Levels = tuple[float, float]
"""(α, σ)."""

Run = Callable[[Tensor, Callable[[Sequence[int]], Tensor]], Tensor]
"""(x: (B, 1), randn) -> x: (B, 1): a step of a sampler, or all of its steps, as a function of state and noise."""

Test = Callable[[np.ndarray], np.ndarray]
"""Functions of x: (n,), as columns: (n, F)."""

POINTS = 200
"""Points in x that carry an expectation backwards in time, over ±9 standard deviations."""

WIDE = 300
"""Points in the noise of a step that carries far, such as Restart's."""

PATHS, FINER, LAG = 2000, 2, 3
"""Sampled paths where a step remembers, and steps for one of theirs in the expectation that they are compared with."""


def strong_error(sampler: Sampler, problem: Problem, process: Process, times: Sequence[float]) -> float:
    """RMS distance, over sixteen starts, of the end points from the exact flow's."""
    x = problem.starts(process, times[0])
    got = sample(problem.model(process, 2), x=x, sampler=sampler, grid=times)
    return float((got - problem.carried(process, x, times[0], times[-1])).square().mean().sqrt())


def weak_error(sampler: Sampler, problem: Problem, process: Process, times: Sequence[float]) -> tuple[float, float]:
    """How far the law of the result is from the exact one, begun with the exact one; and a standard error, mostly 0.

    Normal data: mean and variance, by exact propagation. Else the expectations of x, x², x³, x⁴ and cos 2x: carried
    backwards step by step on a lattice where a step knows only the state (Kolmogorov's equation), and sampled by
    randomised quasi-Monte Carlo where it remembers more.
    """
    here, there = ((process.at("alpha", t), process.at("sigma", t)) for t in (times[0], times[-1]))
    model = problem.model(process, 1)

    if sampler.noise == "path":  # its increments' law is that of independent ones, one draw a step
        sampler = replace(sampler, noise="independent")  # pyright: ignore[reportArgumentType]

    def whole(x: Tensor, randn: Any) -> Tensor:
        *_, x = sampler.run(model, x, times, randn)
        return x

    if len(problem.means) == 1:
        return _normal_error(affine(whole), problem, here, there), 0.0
    right = problem.expectation(tests, there)
    if remembers(sampler, model, times):
        got, error = _guided(sampler, model, problem, process, times)
        apart = got - right
        length = float(np.linalg.norm(apart))
        return length / math.sqrt(len(apart)), float(np.abs(apart) @ error) / length / math.sqrt(len(apart))
    function, first = tests, len(times) - 1 if hasattr(sampler, "churn") else None  # churn is shared by a grid's steps
    for t, s in reversed(list(pairwise(times))):
        x = problem.lattice((process.at("alpha", t), process.at("sigma", t)), POINTS)
        function = averaged(partial(_stepped, sampler, model, t, s, memory=first), function, x)
    return float(np.sqrt(np.square(problem.expectation(function, here) - right).mean())), 0.0


def _stepped(sampler: Sampler, model: Model, t: float, s: float, x: Tensor, randn: Any, memory: Any = None) -> Tensor:
    return sampler.step(model, x, t, s, memory, randn)[0]


def tests(x: np.ndarray) -> np.ndarray:
    """x, x², x³, x⁴ and cos 2x, as columns."""
    return np.stack([x, x**2, x**3, x**4, np.cos(2 * x)], 1)


def remembers(sampler: Sampler, model: Model, times: Sequence[float]) -> bool:
    """Whether a step depends on the past beyond its state: the third one after two pasts, and after none."""
    spans, memories = list(pairwise(times[:4])), [None]
    for value in (0.5, -0.5):
        x, memory = torch.full((1, 1), value, dtype=torch.float64), None
        for t, s in spans[:-1]:
            x, memory = sampler.step(model, x, t, s, memory, _zeros)
        memories.append(memory)
    ends = [float(sampler.step(model, _zeros((1, 1)), *spans[-1], memory, _zeros)[0]) for memory in memories]
    return max(ends) - min(ends) > 1e-9


def _zeros(shape: Sequence[int]) -> Tensor:
    return torch.zeros(tuple(shape), dtype=torch.float64)


def draws(run: Run, x: Tensor | None = None) -> int:
    """How many times a run, from zero or from x: (B, 1), asks for noise."""
    asked = []
    run(_zeros((1, 1)) if x is None else x, lambda shape: asked.append(shape) or _zeros(shape))
    return len(asked)


def fed(run: Run, x: Tensor, noise: Tensor) -> Tensor:
    """The run from x: (B, 1) where its k-th draw is the k-th column of noise: (B, m)."""
    columns = iter(noise.unbind(1))
    return run(x, lambda shape: next(columns).reshape(tuple(shape)))


def affine(run: Run) -> tuple[float, float, float]:
    """Offset, gain and noise variance of a run that is affine in state and noise, without chance: one row for each."""
    inputs = torch.cat([torch.zeros(1, draws(run) + 1), torch.eye(draws(run) + 1)]).double()
    out = fed(run, inputs[:, :1], inputs[:, 1:])[:, 0]
    offset = out[0]
    return float(offset), float(out[1] - offset), float((out[2:] - offset).square().sum())


def _normal_error(map_: tuple[float, float, float], problem: Problem, here: Levels, there: Levels) -> float:
    """How far mean and variance at the end are from the exact ones, in their standard deviation and variance."""
    offset, gain, noise = map_
    (m, v), (right_m, right_v) = (
        (alpha * problem.means[0], alpha**2 * problem.variances[0] + sigma**2) for alpha, sigma in (here, there)
    )
    return math.hypot((gain * m + offset - right_m) / math.sqrt(right_v), (gain**2 * v + noise) / right_v - 1)


def _nodes(m: int, count: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Gauss–Hermite nodes (Q, m) and weights (Q,) of m normal numbers."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(count or (9 if m < 2 else 5))
    shares = np.array([math.prod(w) for w in product(weights / weights.sum(), repeat=m)])
    return np.array(list(product(nodes, repeat=m))).reshape(len(shares), m), shares


def _spread(run: Run, x: np.ndarray) -> float:
    """How far one standard deviation of its noise moves the end of a run, at most, from the points x."""
    still, moved = (fed(run, torch.as_tensor(x)[:, None], torch.full((len(x), 1), xi).double()) for xi in (0.0, 1.0))
    return float((moved - still).abs().max())


def averaged(run: Run, function: Test, x: np.ndarray) -> Test:
    """x ↦ E[function(run(x, ξ))], known at the points x by Gauss–Hermite quadrature, a quintic spline between them."""
    grid, shares = _nodes(draws(run))
    if grid.shape[1] == 1 and _spread(run, x) > (x[-1] - x[0]) / 24:  # too far for a polynomial: the trapezoidal rule
        grid = np.linspace(-8, 8, WIDE)[:, None]
        shares = np.exp(-(grid[:, 0] ** 2) / 2) / np.exp(-(grid**2) / 2).sum()
    states = torch.as_tensor(np.repeat(x, len(grid)))[:, None]
    ends = fed(run, states, torch.as_tensor(np.tile(grid, (len(x), 1))))[:, 0].numpy()
    values = np.einsum("nqf,q->nf", function(ends).reshape(len(x), len(grid), -1), shares)
    spline = make_interp_spline(x, values, 5)
    return lambda at: spline(np.clip(at, x[0], x[-1]))


def _guided(
    sampler: Sampler, model: Model, problem: Problem, process: Process, times: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """E[tests] at the end of a run whose steps remember, and standard errors.

    For any functions u_k with u_N the tests, E[u_N(x_N)] = E[u_0(x_0)] + Σ E[u_{k+1}(x_{k+1}) − u_k(x_k)]. Sampled
    paths give the sum, each term averaged by quadrature over the last `LAG` draws. The nearer u is to the true
    expectation of what is to come, the less the sum varies; it is that of another sampler of the same equation.
    """
    guide = Exponential("x0", 2, getattr(sampler, "eta", 1.0), "singlestep")
    values: list[Test] = [tests]
    for t, s in reversed(list(pairwise(times))):
        function = values[0]
        for a, b in reversed(list(pairwise(_between(process, t, s)))):
            lattice = problem.lattice((process.at("alpha", a), process.at("sigma", a)), POINTS)
            function = averaged(partial(_stepped, guide, model, a, b), function, lattice)
        values = [function, *values]
    here = (process.at("alpha", times[0]), process.at("sigma", times[0]))
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(PATHS, 1, generator=generator, dtype=torch.float64)
    x, memory = torch.as_tensor(problem.quantiles(normal[:, 0].numpy(), here))[:, None], None
    total, spans, recent = np.zeros((PATHS, 1)), list(pairwise(times)), [(0, x, memory)]
    for k, (t, s) in enumerate(spans):
        total = total + _ahead(sampler, model, spans, values, *recent[0], k)
        x, memory = sampler.step(
            model, x, t, s, memory, lambda shape: torch.randn(tuple(shape), generator=generator, dtype=torch.float64)
        )
        recent = [*recent, (k + 1, x, memory)][-LAG:]
    return problem.expectation(values[0], here) + total.mean(0), total.std(0) / math.sqrt(PATHS)


def _ahead(sampler: Sampler, model: Model, spans: Any, values: list[Test], k: int, x: Tensor, memory: Any, last: int):
    """E[u_{last + 1}(x_{last + 1}) − u_last(x_last) | x_k and memory], by quadrature over the draws between."""
    step = partial(sampler.step, model, x, *spans[k], memory)
    nodes, shares = _nodes(draws(lambda x, randn: step(randn)[0], x), 5 if k == last else 3)
    total = 0.0
    for node, share in zip(nodes, shares):
        columns = iter(torch.as_tensor(node))
        there, past = step(lambda shape, columns=columns: next(columns).expand(tuple(shape)))
        ahead = (
            values[k + 1](there[:, 0].numpy()) if k == last
            else _ahead(sampler, model, spans, values, k + 1, there, past, last)
        )  # fmt: skip
        total = total + share * ahead
    return total - values[k](x[:, 0].numpy()) if k == last else total


def _between(process: Process, t: float, s: float) -> list[float]:
    """Times from t to s at equal steps in log(α²/σ²); t and s alone where that is infinite."""
    ends = [process.at("logsnr", t), process.at("logsnr", s)]
    if not all(map(math.isfinite, ends)):
        return [t, s]
    return [t, *process.time(torch.linspace(ends[0], ends[1], FINER + 1, dtype=torch.float64))[1:-1].tolist(), s]


def bias(sampler: Sampler, problem: Problem, process: Process, t: float) -> float:
    """How far the law that steps from t to t leave unchanged is from p_t: by its fixed point, without chance."""
    model, level = problem.model(process, 1), (process.at("alpha", t), process.at("sigma", t))
    stay = partial(_stepped, sampler, model, t, t)
    if len(problem.means) == 1:
        offset, gain, noise = affine(stay)
        return _normal_error((offset / (1 - gain), 0.0, noise / (1 - gain**2)), problem, level, level)
    x = problem.lattice(level, POINTS)
    steps = averaged(stay, lambda at: make_interp_spline(x, np.eye(len(x)), 3)(np.clip(at, x[0], x[-1])), x)(x)
    for _ in range(24):  # 2²⁴ steps
        steps = steps @ steps
    apart = (steps @ tests(x))[len(x) // 2] - problem.expectation(tests, level)
    return float(np.sqrt(np.square(apart).mean()))
