"""The stochastic samplers of diffusers and k-diffusion, each as a function of (problem, calls), as in `peers`.

Grids are each package's own, and "karras" and "log" spacings of σ/α down to 0.01 (the least of DDPM's chain) or 0.002
handed to it. Noise comes from torch's global generator. k-diffusion's dpmpp_sde is given increments of a Brownian
path, as by default, from a light source with the law of its own (slower) tree.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from peer import CHAIN, Peer, Problem, levels
from peers import k_sampling
from peers_diffusers import PLAIN, VP, by_sigmas
from torch import Tensor

SPACINGS: dict[str, dict[str, Any]] = {
    **{name: {"timestep_spacing": name} for name in ("linspace", "leading", "trailing")},
    **{name: {f"use_{name}_sigmas": True} for name in ("karras", "exponential")},
    "lu": {"use_lu_lambdas": True},
}

MULTISTEP = (
    # scheduler, what it is called, options
    ("DPMSolverMultistep", "DPM-Solver++(1M)", {"solver_order": 1, "algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistep", "DPM-Solver++(2M)", {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistep", "DPM-Solver++(2M, heun)",
     {"solver_order": 2, "algorithm_type": "sde-dpmsolver++", "solver_type": "heun"}),
    ("DPMSolverMultistep", "DPM-Solver++(3M)", {"solver_order": 3, "algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistep", "DPM-Solver(2M)",
     {"solver_order": 2, "algorithm_type": "sde-dpmsolver", "final_sigmas_type": "sigma_min"}),
    ("DPMSolverSinglestep", "DPM-Solver++(2S)", {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"}),
    *(
        ("SASolver", f"SA-Solver({order}, {order}, tau={tau:g})",
         {"predictor_order": order, "corrector_order": order, "tau_func": lambda t, tau=tau: tau})
        for order in (2, 3) for tau in (1.0, 0.5, 0.25)
    ),
)  # fmt: skip

K_RULES = (
    # function of k_diffusion.sampling, options, calls a step
    ("euler_ancestral", {}, 1),
    ("dpm_2_ancestral", {}, 2),
    ("dpmpp_2s_ancestral", {}, 2),
    ("dpmpp_sde", {}, 2),
    ("dpmpp_2m_sde", {"solver_type": "midpoint"}, 1),
    ("dpmpp_2m_sde", {"solver_type": "heun"}, 1),
    ("dpmpp_3m_sde", {}, 1),
)

CHURNED = (
    # function, calls a step, s_churn
    ("euler", 1, (10.0, 40.0, 200.0)),
    ("heun", 2, (10.0, 40.0, 200.0)),
    ("dpm_2", 2, (10.0, 40.0)),
)

ETAS = (1.0, 0.5, 0.25)
LEAST = (0.01, 0.002)


def by_chain(scheduler_name: str, options: dict[str, Any], eta: float | None, problem: Problem, calls: int) -> Tensor:
    """Schedulers that look coefficients up in the chain: DDPM, and DDIM with η."""
    scheduler = getattr(import_module("diffusers"), scheduler_name + "Scheduler")(clip_sample=False, **options)
    scheduler.set_timesteps(calls)
    chain = torch.cumprod(1 - torch.linspace(1e-4, 0.02, CHAIN, dtype=torch.float64), 0)
    scheduler.alphas_cumprod = chain

    def at(t: Any) -> tuple[float, float]:
        square = float(chain[int(t)])
        return math.sqrt(square), math.sqrt(1 - square)

    x = problem.start(*at(scheduler.timesteps[0]))
    dial = {} if eta is None else {"eta": eta}
    for t in scheduler.timesteps:
        x = scheduler.step(problem.ask(x, *at(t), 0.0, 1.0), t, x, return_dict=False, **dial)[0]
    return x


class Path:
    """Normalised increments of a Brownian path, for intervals that begin where the last one did, or where it ended."""

    def __init__(self, like: Tensor) -> None:
        self.like, self.begun, self.ended, self.value = like, math.nan, math.nan, like

    def __call__(self, begin: Any, end: Any) -> Tensor:
        begin, end = float(begin), float(end)
        known = self.begun == begin
        fresh = math.sqrt(abs(end - (self.ended if known else begin))) * torch.randn_like(self.like)
        self.value = self.value + fresh if known else fresh
        self.begun, self.ended = begin, end
        return self.value / math.sqrt(abs(end - begin))


def by_k(
    rule: str, options: dict[str, Any], each: int, spacing: str, least: float, problem: Problem, calls: int
) -> Tensor:
    nodes = calls if each == 1 else (calls + 1) // 2
    sigmas = torch.from_numpy(np.append(levels(spacing, nodes, problem.top, least), 0.0))
    start = problem.start(1.0, float(sigmas[0]))
    noise = {}
    if "eta" in options:
        noise = {"noise_sampler": Path(start) if rule == "dpmpp_sde" else lambda a, b: torch.randn_like(start)}

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return problem.ask(x, 1.0, float(sigma[0]), 1.0, 0.0)

    return getattr(k_sampling(), "sample_" + rule)(denoiser, start, sigmas, disable=True, **options, **noise)


def _diffusers_peers() -> list[Peer]:
    peers: list[Peer] = []

    def add(name: str, run: Callable[..., Tensor], *arguments: Any) -> None:
        peers.append(Peer("diffusers", name, partial(run, *arguments)))

    for spacing in ("leading", "trailing", "linspace"):
        for variance in ("fixed_small", "fixed_large"):
            options = {"timestep_spacing": spacing, "variance_type": variance}
            add(f"DDPM({variance}) {spacing}", by_chain, "DDPM", options, None)
        for eta in ETAS:
            add(f"DDIM(η={eta:g}) {spacing}", by_chain, "DDIM", {"timestep_spacing": spacing}, eta)
    betas = {"beta_start": 1e-4, "beta_end": 0.02}
    for spacing in ("linspace", "leading", "trailing"):
        full = {**betas, **SPACINGS[spacing]}
        add(f"Euler ancestral {spacing}", by_sigmas, "EulerAncestralDiscrete", full, PLAIN, (0.0, 1.0), None)
    for scheduler, name, options in MULTISTEP:
        lacking = {"DPMSolverSinglestep": ("linspace", "leading", "trailing", "lu"), "SASolver": ("lu",)}
        for spacing in SPACINGS:
            if spacing not in lacking.get(scheduler, ()):
                full = {**options, **SPACINGS[spacing]}
                add(f"SDE {name} {spacing}", by_sigmas, scheduler, full, VP, (0.0, 1.0), None)
        if scheduler == "DPMSolverSinglestep":
            add(f"SDE {name} linspace", by_sigmas, scheduler, options, VP, (0.0, 1.0), None)  # its own
        end = "stop" if scheduler == "SASolver" or "final_sigmas_type" in options else "zero"
        for spacing in ("karras", "log"):
            for least in LEAST:
                given = (spacing, least, end)
                add(f"SDE {name} {spacing} {least:g}", by_sigmas, scheduler, options, VP, (0.0, 1.0), given)
    for spacing in ("karras", "exponential"):  # (of order 3 the package has none with noise)
        options = {"solver_order": 2, "sigma_schedule": spacing, "algorithm_type": "sde-dpmsolver++"}
        name = f"EDM SDE DPM-Solver++(2M) {spacing}"
        add(name, by_sigmas, "EDMDPMSolverMultistep", options, PLAIN, (1.0, 0.0), None)
    return peers


def _k_peers() -> list[Peer]:
    peers: list[Peer] = []
    for spacing in ("karras", "log"):
        for least in LEAST:
            for rule, options, each in K_RULES:
                for eta in ETAS:
                    kind = f", {options['solver_type']}" if options else ""
                    run = partial(by_k, rule, {**options, "eta": eta}, each, spacing, least)
                    peers.append(Peer("k-diffusion", f"{rule}(η={eta:g}{kind}) {spacing} {least:g}", run))
            for rule, each, churns in CHURNED:
                for churn in churns:
                    run = partial(by_k, rule, {"s_churn": churn}, each, spacing, least)
                    peers.append(Peer("k-diffusion", f"{rule}(churn {churn:g}) {spacing} {least:g}", run))
    return peers


def stochastic_peers() -> list[Peer]:
    """Every configuration of the packages that are installed."""
    made: list[Peer] = []
    for module, build in (("diffusers", _diffusers_peers), ("k_diffusion", _k_peers)):
        if find_spec(module) is not None:
            made += build()
    if made and find_spec("diffusers") is not None:
        import_module("diffusers").logging.set_verbosity_error()
    return made
