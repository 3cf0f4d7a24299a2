"""diffusers' deterministic schedulers, each as a function of (problem, calls).

Each is asked at the noise level that its own grid names, never at a rounded time index.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from peer import BORROWED, CHAIN, CHAIN_LEAST, GRIDS, LEAST, Peer, Problem, spaced
from torch import Tensor

PLAIN, VP, FLOW = "plain", "vp", "flow"
"""How a scheduler's state stands to σ: y = x₀ + σ ε, the same over √(1 + σ²), or (1 − σ) x₀ + σ ε."""

NOISE, DATA, VELOCITY = (0.0, 1.0), (1.0, 0.0), (-1.0, 1.0)
"""Rows (a, b) of what a scheduler takes from the network, a x₀ + b ε."""

SPACINGS: dict[str, dict[str, Any]] = {
    "linspace": {"timestep_spacing": "linspace"},
    "trailing": {"timestep_spacing": "trailing"},
    "karras": {"use_karras_sigmas": True},
    "exponential": {"use_exponential_sigmas": True},
    "beta": {"use_beta_sigmas": True},
    "lu": {"use_lu_lambdas": True},
}

SINGLE = {"linspace", "trailing", "lu"}
"""Spacings that the singlestep scheduler lacks (its own, without a name, is "linspace")."""

MULTISTEP = (
    # scheduler, what it is called, options, the spacings it lacks, last σ: the chain's least or zero
    ("DPMSolverMultistep", "DPM-Solver++(2M)", {"solver_order": 2}, set(), ("zero", "sigma_min")),
    ("DPMSolverMultistep", "DPM-Solver++(2M, heun)", {"solver_order": 2, "solver_type": "heun"}, set(),
     ("zero", "sigma_min")),
    ("DPMSolverMultistep", "DPM-Solver++(3M)", {"solver_order": 3}, set(), ("zero", "sigma_min")),
    ("DPMSolverMultistep", "DPM-Solver(2M)", {"solver_order": 2, "algorithm_type": "dpmsolver"}, set(),
     ("sigma_min",)),
    ("DPMSolverMultistep", "DPM-Solver(3M)", {"solver_order": 3, "algorithm_type": "dpmsolver"}, set(),
     ("sigma_min",)),
    ("DPMSolverSinglestep", "DPM-Solver++(2S)", {"solver_order": 2}, SINGLE, ("zero", "sigma_min")),
    ("DPMSolverSinglestep", "DPM-Solver++(3S)", {"solver_order": 3}, SINGLE, ("zero", "sigma_min")),
    ("DPMSolverSinglestep", "DPM-Solver(2S)", {"solver_order": 2, "algorithm_type": "dpmsolver"}, SINGLE,
     ("sigma_min",)),
    ("DPMSolverSinglestep", "DPM-Solver(3S)", {"solver_order": 3, "algorithm_type": "dpmsolver"}, SINGLE,
     ("sigma_min",)),
    ("UniPCMultistep", "UniPC(2, bh1)", {"solver_order": 2, "solver_type": "bh1"}, {"lu"}, ("zero", "sigma_min")),
    ("UniPCMultistep", "UniPC(2, bh2)", {"solver_order": 2, "solver_type": "bh2"}, {"lu"}, ("zero", "sigma_min")),
    ("UniPCMultistep", "UniPC(3, bh1)", {"solver_order": 3, "solver_type": "bh1"}, {"lu"}, ("zero", "sigma_min")),
    ("UniPCMultistep", "UniPC(3, bh2)", {"solver_order": 3, "solver_type": "bh2"}, {"lu"}, ("zero", "sigma_min")),
    ("DEISMultistep", "DEIS(2)", {"solver_order": 2}, {"lu"}, (None,)),
    ("DEISMultistep", "DEIS(3)", {"solver_order": 3}, {"lu"}, (None,)),
    ("SASolver", "SA-Solver(2)", {"tau_func": lambda t: 0.0}, {"lu"}, (None,)),
    ("SASolver", "SA-Solver(3)", {"predictor_order": 3, "corrector_order": 3, "tau_func": lambda t: 0.0}, {"lu"},
     (None,)),
)  # fmt: skip
"""The last σ is None where the scheduler leaves no choice: the chain's least."""

PLAIN_RULES = (
    # scheduler, what it is called
    ("EulerDiscrete", "Euler"),
    ("HeunDiscrete", "Heun"),
    ("LMSDiscrete", "LMS"),
    ("KDPM2Discrete", "DPM2"),
)


def _diffusers(name: str) -> Any:
    return getattr(importlib.import_module("diffusers"), name + "Scheduler")


def _within(scheduler_name: str, options: dict[str, Any], calls: int) -> Any:
    """The scheduler set to the most steps whose calls are at most `calls`."""
    kind = _diffusers(scheduler_name)
    for steps in range((calls + 1) // 2 if kind.order == 2 else calls, 0, -1):
        scheduler = kind(**options)
        scheduler.set_timesteps(steps)
        if len(scheduler.timesteps) <= calls:
            return scheduler
    raise ValueError(f"no schedule within {calls} calls")


def _coordinates(kind: str, sigma: float) -> tuple[float, float]:
    """α and σ of a scheduler's state at its `sigma`."""
    if kind == FLOW:
        return 1 - sigma, sigma
    if kind == VP:
        return 1 / math.hypot(1, sigma), sigma / math.hypot(1, sigma)
    return 1.0, sigma


def by_sigmas(
    scheduler_name: str, options: dict[str, Any], kind: str, row: tuple[float, float], grid: Any,
    problem: Problem, calls: int,
) -> Tensor:  # fmt: skip
    """A scheduler that keeps its grid in `sigmas`; row (a, b) is what it takes from the network.

    grid: None for its own, or (spacing, least, end) to hand it one.
    """
    scheduler = _within(scheduler_name, options, calls)
    sigmas = scheduler.sigmas.double()
    if grid is not None:
        spacing, least, end = grid
        nodes = (len(scheduler.timesteps) + 1) // 2 if "Heun" in scheduler_name else len(scheduler.timesteps)
        sigmas = torch.from_numpy(spaced(spacing, least, end, nodes, problem.top))
        if kind == FLOW:
            sigmas = sigmas / (1 + sigmas)
        if "Heun" in scheduler_name:
            sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    elif kind != FLOW and abs(sigmas[0] / problem.top - 1) < 1e-3:
        sigmas[0] = problem.top  # which float32 rounds
    scheduler.sigmas = sigmas
    scheduler.set_begin_index(0)
    interpolated = getattr(scheduler, "sigmas_interpol", None)
    x = problem.start(*_coordinates(kind, float(sigmas[0])))
    shape = x.shape
    if scheduler_name == "SASolver":
        x = x[:, :, None, None]  # it reads its batches as images
    for t in scheduler.timesteps:
        i = scheduler.step_index or 0
        second = interpolated is not None and not scheduler.state_in_first_order
        alpha, sigma = _coordinates(kind, float(interpolated[i] if second else scheduler.sigmas[i]))
        if hasattr(scheduler, "is_scale_input_called"):
            scheduler.is_scale_input_called = True
        if scheduler_name.startswith("EDM"):
            denoised = problem.ask(x, alpha, sigma, 1.0, 0.0)
            data = scheduler.config.sigma_data
            total = sigma**2 + data**2
            output = (denoised - data**2 / total * x) * math.sqrt(total) / (sigma * data)
        else:
            output = problem.ask(x.reshape(shape), alpha, sigma, *row).reshape(x.shape)
        x = scheduler.step(output, t, x, return_dict=False)[0].double()
    return x.reshape(shape) / _coordinates(kind, float(scheduler.sigmas[-1]))[0]


def by_index(scheduler_name: str, options: dict[str, Any], problem: Problem, calls: int) -> Tensor:
    """A scheduler that looks its coefficients up in the chain: DDIM and PNDM."""
    scheduler = _within(scheduler_name, options, calls)
    chain = torch.cumprod(1 - torch.linspace(1e-4, 0.02, CHAIN, dtype=torch.float64), 0)
    scheduler.alphas_cumprod = chain
    if float(scheduler.final_alpha_cumprod) != 1.0:
        scheduler.final_alpha_cumprod = chain[0]

    def at(t: Any) -> tuple[float, float]:
        square = float(chain[max(int(t), 0)])
        return math.sqrt(square), math.sqrt(1 - square)

    x = problem.start(*at(CHAIN - 1))
    for t in scheduler.timesteps:
        x = scheduler.step(problem.ask(x, *at(t), 0.0, 1.0), t, x, return_dict=False)[0]
    return x / math.sqrt(float(scheduler.final_alpha_cumprod))


def ipndm(grid: Any, problem: Problem, calls: int) -> Tensor:
    """diffusers' iPNDM, whose `betas` are σ of a state with α² + σ² = 1, and whose network predicts v."""
    spacing, least, end = grid
    ratios = spaced(spacing, least, end, calls, problem.top)
    scheduler = _diffusers("IPNDM")()
    scheduler.set_timesteps(calls)
    scheduler.betas = torch.from_numpy(ratios / np.hypot(1, ratios))
    scheduler.alphas = torch.from_numpy(1 / np.hypot(1, ratios))
    scheduler.set_begin_index(0)
    x = problem.start(float(scheduler.alphas[0]), float(scheduler.betas[0]))
    for i, t in enumerate(scheduler.timesteps):
        alpha, sigma = float(scheduler.alphas[i]), float(scheduler.betas[i])
        x = scheduler.step(problem.ask(x, alpha, sigma, -sigma, alpha), t, x, return_dict=False)[0]
    return x / float(scheduler.alphas[-1])


def diffusers_peers(process: str) -> list[Peer]:
    peers: list[Peer] = []

    def add(name: str, run: Callable[..., Tensor], *arguments: Any) -> None:
        grid = arguments[-1]
        borrowed = isinstance(grid, tuple) and (process, grid[0]) == BORROWED
        peers.append(Peer("diffusers", name, partial(run, *arguments), borrowed))

    for scheduler, name, options, lacking, finals in MULTISTEP:
        for final in finals:
            given = {**options, **({"final_sigmas_type": final} if final else {})}
            label = f"{name} to σ_min" if final == "sigma_min" else name
            if process == "vp":
                for spacing in [s for s in SPACINGS if s not in lacking]:
                    # (order 3 divides by zero where the last step has no length)
                    if final != "sigma_min" or spacing in ("linspace", "trailing"):
                        full = {**given, **SPACINGS[spacing]}
                        add(f"{label} {spacing}", by_sigmas, scheduler, full, VP, NOISE, None)
            if process == "flow" and scheduler != "SASolver" and "algorithm_type" not in options:
                for shift in (1.0, 3.0):
                    full = {**given, "use_flow_sigmas": True, "flow_shift": shift, "prediction_type": "flow_prediction"}
                    add(f"{label} flow, shift {shift:g}", by_sigmas, scheduler, full, FLOW, VELOCITY, None)
                if lacking is SINGLE:
                    add(f"{label} linspace", by_sigmas, scheduler, given, VP, NOISE, None)
            end = "zero" if final == "zero" else "stop"
            for spacing in GRIDS[process]:
                for least in LEAST[process]:
                    if spacing != "linear" and (process, least) != ("vp", CHAIN_LEAST):  # which are its own
                        grid = (spacing, least, end)
                        add(f"{label} {spacing} {least:g}", by_sigmas, scheduler, given, VP, NOISE, grid)
    for scheduler, name in PLAIN_RULES:
        if process == "vp":
            betas = {"beta_start": 1e-4, "beta_end": 0.02}
            for spacing in ("linspace", "trailing", "karras", "exponential"):
                full = {**betas, **SPACINGS[spacing]}
                add(f"{name} {spacing}", by_sigmas, scheduler, full, PLAIN, NOISE, None)
        if scheduler == "HeunDiscrete":
            for spacing in ("karras", "log"):
                for least in LEAST[process]:
                    grid = (spacing, least, "zero")
                    add(f"{name} {spacing} {least:g}", by_sigmas, scheduler, {}, PLAIN, NOISE, grid)
    if process == "vp":
        for spacing in ("linspace", "leading", "trailing"):
            add(f"DDIM {spacing}", by_index, "DDIM", {"timestep_spacing": spacing, "clip_sample": False})
            for skip in (True, False):
                for one in (True, False):
                    options = {"timestep_spacing": spacing, "skip_prk_steps": skip, "set_alpha_to_one": one}
                    name = f"PNDM{' without Runge-Kutta' if skip else ''} {spacing}{' to one' if one else ''}"
                    add(name, by_index, "PNDM", options)
    if process == "edm":
        for order, kind in ((2, "midpoint"), (2, "heun"), (3, "midpoint")):
            for spacing in ("karras", "exponential"):
                for final in ("zero", "sigma_min"):
                    options = {"solver_order": order, "solver_type": kind, "sigma_schedule": spacing,
                               "final_sigmas_type": final}  # fmt: skip
                    name = f"EDM DPM-Solver++({order}M, {kind}) {spacing} {final}"
                    add(name, by_sigmas, "EDMDPMSolverMultistep", options, PLAIN, DATA, None)
        for spacing in ("karras", "exponential"):
            options = {"sigma_schedule": spacing}
            add(f"EDM Euler {spacing}", by_sigmas, "EDMEuler", options, PLAIN, DATA, None)
    if process == "flow":
        for shift in (1.0, 3.0):
            for spacing in ("plain", "karras", "exponential", "beta"):
                options = {"shift": shift, **({} if spacing == "plain" else SPACINGS[spacing])}
                name = f"FlowMatchEuler {spacing}, shift {shift:g}"
                add(name, by_sigmas, "FlowMatchEulerDiscrete", options, FLOW, VELOCITY, None)
            name = f"FlowMatchHeun, shift {shift:g}"
            add(name, by_sigmas, "FlowMatchHeunDiscrete", {"shift": shift}, FLOW, VELOCITY, None)
        for order in (2, 3):
            for spacing in ("karras", "exponential"):
                options = {"solver_order": order, "use_flow_sigmas": True, "prediction_type": "flow_prediction",
                           **SPACINGS[spacing]}  # fmt: skip
                add(f"UniPC({order}, bh2) flow {spacing}", by_sigmas, "UniPCMultistep", options, FLOW, VELOCITY, None)
    for spacing in GRIDS[process]:
        for end in ("zero", "stop"):
            for least in LEAST[process]:
                add(f"iPNDM {spacing} {least:g} {end}", ipndm, (spacing, least, end))
    return peers
