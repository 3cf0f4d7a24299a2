"""The deterministic samplers of diffusers, k-diffusion and azula, each as a function of (problem, calls).

All of them see the same thing: a problem that answers E[a x₀ + b ε | α x₀ + σ ε = x] at the noise level that the
package's own grid names (never at a rounded time index), and the state that stands for the same start there. A
configuration takes as many steps as keep its calls within the budget. `peers(process)` lists them.

diffusers' are in `peers_diffusers`; grids are the packages' own, and those of `peer`.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from functools import partial
from typing import Any

import torch
from peer import BORROWED, GRIDS, LEAST, Peer, Problem, spaced
from peers_diffusers import diffusers_peers
from torch import Tensor

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
    sigmas = torch.from_numpy(spaced(spacing, least, "zero", nodes, problem.top))

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
    ratios = torch.from_numpy(spaced(spacing, least, "zero" if end == "zero" else "stop", steps, problem.top))

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


def peers(process: str) -> tuple[list[Peer], list[str]]:
    """Every configuration for "vp", "edm" or "flow", and the packages that are not installed."""
    made: list[Peer] = []
    missing: list[str] = []
    sources = (
        ("diffusers", "diffusers", diffusers_peers),
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
