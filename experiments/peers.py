"""The deterministic samplers of diffusers, k-diffusion and azula, each as a function of (problem, calls).

All of them see the same thing: a problem that answers E[a x₀ + b ε | α x₀ + σ ε = x] at the noise level that the
package's own grid names (never at a rounded time index), and the state that stands for the same start there. A
configuration takes as many steps as keep its calls within the budget. `peers(process)` lists them.

Grids: the package's own; and, handed to any of them, "log", "karras" and "flow" spacings of σ/α down to 0.01 (the
least of DDPM's chain), 0.002 or 0.001, from where they jump to 0 ("zero"), end ("stop") or denoise ("denoise").
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import sys
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from scoresde import ddpm

CHAIN, CHAIN_LEAST = 1000, 0.01
"""The length of DDPM's chain, on which diffusers' schedulers are built, and (all but) its least σ/α."""


class Problem(Protocol):
    """What a sampler may know: the start, the process's highest σ/α, and the model."""

    top: float

    def start(self, alpha: float, sigma: float) -> Tensor:
        """The start as a state α x₀ + σ ε, (B, D)."""
        ...

    def ask(self, x: Tensor, alpha: float, sigma: float, a: float, b: float) -> Tensor:
        """E[a x₀ + b ε | α x₀ + σ ε = x]: one call of the network."""
        ...


@dataclass(frozen=True)
class Peer:
    """One configuration: its package, its name, and run(problem, calls) -> data (B, D).

    Borrowed: on a grid that the package offers for another process (rectified flow's on DDPM's).
    """

    package: str
    name: str
    run: Callable[[Problem, int], Tensor] = field(repr=False)
    borrowed: bool = False

    def __str__(self) -> str:
        return f"{self.package} {self.name}"


def levels(kind: str, nodes: int, top: float, least: float) -> np.ndarray:
    """σ/α at `nodes` places from top to least, equally spaced in its logarithm, its 7th root, or ρ/(1 + ρ)."""
    share = np.linspace(0, 1, nodes) if nodes > 1 else np.zeros(1)
    if kind == "log":
        return np.exp(math.log(top) + share * math.log(least / top))
    if kind == "karras":
        return (top ** (1 / 7) + share * (least ** (1 / 7) - top ** (1 / 7))) ** 7
    if kind == "flow":
        first, last = top / (1 + top), least / (1 + least)
        part = first + share * (last - first)
        return part / (1 - part)
    if kind == "linear":  # equal steps of DDPM's linear chain
        process = ddpm(CHAIN)
        ends = process.time(torch.tensor([-2 * math.log(top), -2 * math.log(least)], dtype=torch.float64)).numpy()
        times = torch.from_numpy(ends[0] + share * (ends[1] - ends[0]))
        return torch.exp(-0.5 * process.logsnr(times)).numpy()
    raise ValueError(f"unknown grid {kind!r}")


def _full(kind: str, least: float, end: str, calls: int, top: float) -> np.ndarray:
    """The nodes for `calls` steps: the last of them to 0 ("zero"), or to `least` ("stop")."""
    if end == "zero":
        return np.append(levels(kind, calls, top, least), 0.0)
    return levels(kind, calls + 1, top, least)


# ---------------------------------------------------------------------------------------------------- diffusers

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
        sigmas = torch.from_numpy(_full(spacing, least, end, nodes, problem.top))
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
    ratios = _full(spacing, least, end, calls, problem.top)
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


def _diffusers_peers(process: str) -> list[Peer]:
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


# -------------------------------------------------------------------------------------------------- k-diffusion

K_RULES = (
    # function of k_diffusion.sampling, options, calls of n nodes and a last step to zero
    ("euler", {}, 1),
    ("heun", {}, 2),
    ("dpm_2", {}, 2),
    ("lms", {}, 1),
    ("dpmpp_2s_ancestral", {"eta": 0.0}, 2),
    ("dpmpp_2m", {}, 1),
    ("dpmpp_2m_sde", {"eta": 0.0, "solver_type": "heun"}, 1),
    ("dpmpp_3m_sde", {"eta": 0.0}, 1),
)


def k_sampling() -> Any:
    """k_diffusion.sampling alone, without the training code (and its dependencies) that the package imports."""
    if "k_diffusion" not in sys.modules:
        spec = importlib.util.find_spec("k_diffusion")
        if spec is None:
            raise ImportError("k-diffusion is not installed")
        package, helpers = types.ModuleType("k_diffusion"), types.ModuleType("k_diffusion.utils")
        package.__path__, package.__spec__ = list(spec.submodule_search_locations or []), spec
        helpers.append_dims = lambda x, dims: x[(...,) + (None,) * (dims - x.ndim)]  # pyright: ignore
        sys.modules["k_diffusion"], sys.modules["k_diffusion.utils"] = package, helpers
        package.utils = helpers  # pyright: ignore
    return importlib.import_module("k_diffusion.sampling")


def by_k_diffusion(
    rule: str, options: dict[str, Any], each: int, spacing: str, least: float, problem: Problem, calls: int
) -> Tensor:
    nodes = calls if each == 1 else (calls + 1) // 2
    sigmas = torch.from_numpy(_full(spacing, least, "zero", nodes, problem.top))

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return problem.ask(x, 1.0, float(sigma[0]), 1.0, 0.0)

    function = getattr(k_sampling(), "sample_" + rule)
    noise = {"noise_sampler": lambda a, b: 0.0} if "eta" in options else {}
    return function(denoiser, problem.start(1.0, float(sigmas[0])), sigmas, disable=True, **options, **noise)


def k_fast(least: float, problem: Problem, calls: int) -> Tensor:
    """DPM-Solver-fast, singlestep orders 3, 2 and 1, ending at `least`."""

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        return problem.ask(x, 1.0, float(sigma[0]), 1.0, 0.0)

    start = problem.start(1.0, problem.top)
    return k_sampling().sample_dpm_fast(denoiser, start, least, problem.top, calls, disable=True)


def _k_peers(process: str) -> list[Peer]:
    peers = []
    for rule, options, each in K_RULES:
        for spacing in GRIDS[process]:
            for least in LEAST[process]:
                run = partial(by_k_diffusion, rule, options, each, spacing, least)
                peers.append(Peer("k-diffusion", f"{rule} {spacing} {least:g}", run, (process, spacing) == BORROWED))
    return peers + [Peer("k-diffusion", f"dpm_fast {least:g}", partial(k_fast, least)) for least in LEAST[process]]


# -------------------------------------------------------------------------------------------------------- azula

AZULA_RULES = (
    # class, options, whether it can step to σ = 0, calls a step
    ("DDIMSampler", {}, True, 1),
    ("HeunSampler", {}, False, 2),
    *(("zABSampler", {"order": order}, True, 1) for order in (2, 3, 4)),
    *(("vABSampler", {"order": order}, True, 1) for order in (2, 3, 4)),
    *(("zEABSampler", {"order": order}, False, 1) for order in (2, 3, 4)),
    *(("xEABSampler", {"order": order}, False, 1) for order in (2, 3, 4)),
    *(("REABSampler", {"order": order}, False, 1) for order in (2, 3)),
)


def by_azula(
    rule: str, options: dict[str, Any], each: int, spacing: str, least: float, end: str, problem: Problem, calls: int
) -> Tensor:
    """azula's samplers in x/α: their updates do not depend on the scale of x."""
    from azula import sample
    from azula.denoise import DiracPosterior

    steps = (calls - (end == "denoise")) // each
    if steps < 1:
        raise ValueError(f"no step within {calls} calls")
    ratios = torch.from_numpy(_full(spacing, least, "zero" if end == "zero" else "stop", steps, problem.top))

    class Exact:
        def schedule(self, t: Tensor) -> tuple[Tensor, Tensor]:
            """α and σ at t = 1, 1 − 1/steps, …, 0."""
            sigma = ratios[((1 - t) * steps).round().long()]
            return torch.ones_like(sigma), sigma

        def __call__(self, x: Tensor, t: Tensor) -> Any:
            return DiracPosterior(mean=problem.ask(x, 1.0, float(self.schedule(t)[1]), 1.0, 0.0))

    sampler = getattr(sample, rule)(Exact(), steps=steps, silent=True, dtype=torch.float64, **options)
    x = sampler(problem.start(1.0, float(ratios[0])))
    return problem.ask(x, 1.0, least, 1.0, 0.0) if end == "denoise" else x


def _azula_peers(process: str) -> list[Peer]:
    peers = []
    for rule, options, to_zero, each in AZULA_RULES:
        name = rule.removesuffix("Sampler") + (str(options["order"]) if options else "")
        for spacing in GRIDS[process]:
            for least in LEAST[process]:
                for end in ("zero", "stop") if to_zero else ("denoise", "stop"):
                    run = partial(by_azula, rule, options, each, spacing, least, end)
                    full = f"{name} {spacing} {least:g} {end}"
                    peers.append(Peer("azula", full, run, (process, spacing) == BORROWED))
    return peers


# ------------------------------------------------------------------------------------------------------ the list

GRIDS = {"vp": ("log", "karras", "linear", "flow"), "edm": ("log", "karras"), "flow": ("log", "karras", "flow")}
"""Spacings handed to samplers that have none of their own for the process."""

BORROWED = ("vp", "flow")

LEAST = {"vp": (0.01, 0.001), "edm": (0.002, 0.01), "flow": (0.01, 0.001)}
"""Where the spacings end."""


def peers(process: str) -> tuple[list[Peer], list[str]]:
    """Every configuration for "vp", "edm" or "flow", and the packages that are not installed."""
    made: list[Peer] = []
    missing: list[str] = []
    sources = (
        ("diffusers", "diffusers", _diffusers_peers),
        ("k_diffusion", "k-diffusion", _k_peers),
        ("azula", "azula", _azula_peers),
    )
    for module, package, build in sources:
        if importlib.util.find_spec(module) is None:
            missing.append(package)
        else:
            made += build(process)
    if "diffusers" not in missing:
        importlib.import_module("diffusers").logging.set_verbosity_error()
    return made, missing


def quietly(peer: Peer, problem: Problem, calls: int) -> Tensor | None:
    """What a configuration returns; None where it raises, or returns something that is not finite."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            result = peer.run(problem, calls)
        except Exception:
            return None
    return result if bool(torch.isfinite(result).all()) else None
