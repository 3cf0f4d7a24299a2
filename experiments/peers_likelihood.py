"""Log-likelihoods as other packages compute them, each as a function of (problem, generator).

All of them see the same exact model: a problem that answers E[a x₀ + b ε | α x₀ + σ ε = x]. flow_matching and
k-diffusion are called where they are installed (`pip install --no-deps flow_matching k-diffusion einops`; the former
is licensed for non-commercial use, and nothing of it is here). score_sde's recipe is written anew from its paper,
Song et al. (2021), arXiv 2011.13456, sec. 4.3 and app. D.2; so is FFJORD's on torchdiffeq, Grathwohl et al. (2019),
1810.01367. `rivals()` lists them.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from peers import k_sampling
from scipy.integrate import solve_ivp
from targets_likelihood import Problem
from torch import Tensor
from torchdiffeq import odeint

from scoresde import VP, Process, RectifiedFlow, targets

TRUNCATION = 1e-5
"""The time at which score_sde begins."""

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
"""EDM's, between which k-diffusion integrates."""

SMALL = 1e-150
"""A σ that stands for 0, so that the score −ε/σ is finite."""

Field = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Rival:
    """One way to a likelihood: run(problem, generator) -> log p: (B,) in nats. quick: also in the quick benchmark."""

    package: str
    setting: str
    prior: str
    run: Callable[[Problem, torch.Generator], Tensor] = field(repr=False)
    quick: bool = False


def with_divergence(function: Field, x: Tensor, probe: Tensor | None) -> tuple[Tensor, Tensor]:
    """function(x) and its divergence: exact by D backward passes in one batch, or vᵀJv of one probe v: (B, D)."""
    value, pull = torch.func.vjp(function, x)
    if probe is not None:
        return value, (pull(probe)[0] * probe).sum(1)
    units = torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[:, None].expand(-1, *x.shape)
    rows = torch.vmap(lambda v: pull(v)[0])(units)
    return value, (rows * units).sum((0, 2))


def signs(x: Tensor, generator: torch.Generator) -> Tensor:
    """A Rademacher vector for every sample."""
    return (torch.randint(2, x.shape, generator=generator) * 2 - 1).to(x)


def standard_normal(x: Tensor) -> Tensor:
    return -0.5 * (x.square() + math.log(2 * math.pi)).sum(1)


def flow_of(problem: Problem, process: Process) -> Callable[[float, Tensor], Tensor]:
    """dx/dt = f x − g² score/2, or velocity itself where α reaches 0."""

    def velocity(t: float, x: Tensor) -> Tensor:
        alpha, sigma = process.at("alpha", t), max(process.at("sigma", t), SMALL)
        if isinstance(process, RectifiedFlow):
            return problem.ask(x, alpha, sigma, -1.0, 1.0)
        score = problem.ask(x, alpha, sigma, 0.0, -1 / sigma)
        return process.at("drift", t) * x - 0.5 * process.at("diffusion", t) ** 2 * score

    return velocity


# ---------------------------------------------------------------------------------------------------- score_sde


def score_sde(tolerance: float, exact: bool, problem: Problem, generator: torch.Generator) -> Tensor:
    """scipy's RK45 on points and log-densities of the whole batch as one vector; VP from 1e-5 to 1, prior N(0, I)."""
    velocity, shape, device = flow_of(problem, VP()), problem.x.shape, problem.x.device
    probe = None if exact else signs(problem.x, generator)

    def slope(t: float, state: np.ndarray) -> np.ndarray:
        x = torch.from_numpy(state[: problem.x.numel()]).reshape(shape).to(device)
        value, divergence = with_divergence(lambda x: velocity(t, x), x, probe)
        return torch.cat([value.flatten(), divergence]).cpu().numpy()

    begin = torch.cat([problem.x.flatten(), problem.x.new_zeros(shape[0])]).cpu().numpy()
    result = solve_ivp(slope, (TRUNCATION, 1.0), begin, "RK45", rtol=tolerance, atol=tolerance)
    if not result.success:
        raise RuntimeError(result.message)
    end = torch.from_numpy(result.y[:, -1]).to(device)
    return standard_normal(end[: problem.x.numel()].reshape(shape)) + end[problem.x.numel() :]


# -------------------------------------------------------------------------------------------------- torchdiffeq


def torchdiffeq(process: Process, moments: bool, tolerance: float, problem: Problem, _: torch.Generator) -> Tensor:
    """dopri5 on the plain equation from t = 0 to 1, with exact divergence; prior N(0, I), or the data's moments'."""
    velocity = flow_of(problem, process)

    def slope(t: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        at = min(max(float(t), 0.0), 1.0)  # it steps past the end, where there is nothing
        return with_divergence(lambda x: velocity(at, x), state[0], None)

    begin = (problem.x, problem.x.new_zeros(len(problem.x)))
    ends, logs = odeint(slope, begin, problem.x.new_tensor([0.0, 1.0]), rtol=tolerance, atol=tolerance, method="dopri5")
    if not moments:
        return standard_normal(ends[-1]) + logs[-1]
    gaussian = targets.Gaussian(*problem.target.moments)
    return gaussian.marginal(process, 1.0).log_prob(ends[-1]) + logs[-1]


# ------------------------------------------------------------------------------------------------ flow_matching


def flow_matching(tolerance: float, exact: bool, problem: Problem, generator: torch.Generator) -> Tensor:
    """ODESolver.compute_likelihood by dopri5 on x_t = t x₀ + (1 − t) ε: its time runs from noise to data."""
    from flow_matching.solver import ODESolver  # pyright: ignore[reportMissingImports]

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        at = min(max(float(t), 0.0), 1.0)
        return problem.ask(x, at, max(1 - at, SMALL), 1.0, -1.0)

    usual = torch.get_default_dtype()
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        torch.set_default_dtype(problem.x.dtype)  # its probe has the default dtype, and refuses others
        try:
            _, value = ODESolver(velocity).compute_likelihood(
                problem.x.clone(), standard_normal, None, "dopri5", tolerance, tolerance,
                time_grid=torch.tensor([1.0, 0.0], device=problem.x.device), exact_divergence=exact,
            )  # fmt: skip
        finally:
            torch.set_default_dtype(usual)
    return value.detach()


# -------------------------------------------------------------------------------------------------- k-diffusion


class _Isotropic(torch.autograd.Function):
    """The identity, whose Jacobian pretends to be a multiple of I for each sample: v ↦ v·trace/D."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, x: Tensor, trace: Tensor) -> Tensor:
        ctx.save_for_backward(trace)
        ctx.dim = x.shape[1]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return None, grads[0] * (ctx.saved_tensors[0] / ctx.dim)[:, None], None


def k_diffusion(tolerance: float, exact: bool, problem: Problem, generator: torch.Generator) -> Tensor:
    """log_likelihood between EDM's σ, by its one probe; or by a denoiser whose Jacobian is its trace's share of I,

    for which any probe of signs gives the exact trace, so that only the solver's error is left.
    """

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        def mean(x: Tensor) -> Tensor:
            return problem.ask(x, 1.0, float(sigma[0]), 1.0, 0.0)

        if not exact:
            return mean(x)
        return _Isotropic.apply(*_detached(x, mean))  # pyright: ignore[reportReturnType]

    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(int(torch.randint(2**31, (), generator=generator)))
        value, _ = k_sampling().log_likelihood(
            denoiser, problem.x, SIGMA_MIN, SIGMA_MAX, atol=tolerance, rtol=tolerance
        )
    return value.detach()


def _detached(x: Tensor, function: Field) -> tuple[Tensor, Tensor, Tensor]:
    value, trace = with_divergence(function, x.detach(), None)
    return value, x, trace


# ------------------------------------------------------------------------------------------------------ the list


def rivals() -> tuple[list[Rival], list[str]]:
    """Every way, and the packages that are not installed."""
    made = [
        Rival("score_sde's way", "one probe 1e-05", "VP N(0, I)", partial(score_sde, 1e-5, False), True),
        *_ladder("score_sde's way", "VP N(0, I)", lambda tol: partial(score_sde, tol, True), (1e-5, 1e-8)),
    ]
    optional = (("k_diffusion", "k-diffusion", _k_diffusion), ("flow_matching", "flow_matching", _flow_matching))
    missing = [name for module, name, _ in optional if importlib.util.find_spec(module) is None]
    for _, name, build in optional:
        made += [] if name in missing else build()
    for process, prior, moments, tolerances in (
        (VP(), "VP N(0, I)", False, (1e-5, 1e-7)),
        (VP(), "VP moments", True, (1e-5, 1e-7)),
        (RectifiedFlow(), "flow N(0, I)", False, (1e-5, 1e-7, 1e-9)),
    ):
        build = lambda tol, p=process, m=moments: partial(torchdiffeq, p, m, tol)  # noqa: E731
        made += _ladder("torchdiffeq", prior, build, tolerances)
    return made, missing


def _ladder(
    package: str, prior: str, build: Callable[[float], Callable[[Problem, torch.Generator], Tensor]], tolerances: Any
) -> list[Rival]:
    return [Rival(package, f"exact {tol:.0e}", prior, build(tol), tol == tolerances[0]) for tol in tolerances]


def _k_diffusion() -> list[Rival]:
    prior = "EDM N(0, σ²)"
    one = Rival("k-diffusion", "one probe 1e-04", prior, partial(k_diffusion, 1e-4, False), True)
    return [one, *_ladder("k-diffusion", prior, lambda tol: partial(k_diffusion, tol, True), (1e-4, 1e-7))]


def _flow_matching() -> list[Rival]:
    prior = "flow N(0, I)"
    one = Rival("flow_matching", "one probe 1e-05", prior, partial(flow_matching, 1e-5, False), True)
    return [one, *_ladder("flow_matching", prior, lambda tol: partial(flow_matching, tol, True), (1e-5, 1e-7))]
