"""Log-likelihoods by the probability-flow ODE."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.adaptation import Path
from scoresde.adjoint import through
from scoresde.density import BUDGET, GENEROUS, History, LogProb, Walk, carry, normal, suggested
from scoresde.divergence import KINDS, Probes
from scoresde.dynamics import Dynamics
from scoresde.likelihood.lattice import looks_discrete
from scoresde.model import Model
from scoresde.samplers import ODE, Adams
from scoresde.solve import ADAPTIVE, solve


def log_prob(
    model: Model,
    x: Tensor,
    steps: int = 40,
    *,
    divergence: str = "auto",
    probes: int = 1,
    tolerance: float | None = None,
    solver: Adams | ODE = Adams(),  # noqa: B008  (frozen)
    t: float = 0.0,
    prior: str = "auto",
    nodes: int | None = None,
    gradient: str | None = None,
    chunk: int = 2**14,
    generator: torch.Generator | None = None,
) -> LogProb:
    """log p(x) of each sample under the model's probability flow.

    Every sample has steps of its own, chosen so that its estimated error stays within the tolerance.

    Args:
        x: (B, *), data, continuous (for integer data see `bits_per_dim`). steps: about how many calls a sample
            takes: sets the tolerance to 3.5e-4 (40/steps)⁷ nats a dimension, if none is given, and rough networks
            take at most four times as many.
        divergence: "exact" (D Jacobian products by forward mode), "hutchinson" (Rademacher vectors), "gaussian",
            "orthogonal" or "hutch++", the same vectors along a sample's whole path; "auto": exact up to D = 256, else
            "hutchinson". The Gaussian with the model's moments is always taken exactly.
        probes: how many vectors a sample; from 2 on the standard error is known (3 k for k estimates of "hutch++").
        tolerance: nats a sample, in at most 32 · steps calls; a warning names the samples that did not get there.
        solver: Adams(), its order the highest to use if it names one (else 8), or ODE(method, rtol, atol) for
            torchdiffeq's methods on the same equation, with steps shared by the batch.
        t: the time of x: log p_t(x). prior: "moments" (the Gaussian with the model's moments at t_max), "standard"
            (N(0, α² + σ²)), "model" (what the model's score at t_max says, to third order); "auto": "moments" where
            they are given and no conditions, else "model".
        nodes: take the divergence at this many Gauss–Legendre nodes alone, and the path by plain calls.
        gradient: "direct": the result is differentiable in x and the network's parameters; "adjoint": likewise, by
            solving the adjoint equation, in constant memory; None: in x, directly, if it requires gradients.
            (torch's own LayerNorm has a wrong gradient under forward mode: write it out, as networks.MLP does.)
        chunk: how many rows a batched Jacobian product may have at once. generator: the source of the probes.
    Returns:
        LogProb.
    Raises:
        ValueError, TypeError: an argument that does not fit, or a result that is not finite.

    Example:
        >>> import torch
        >>> from scoresde import VP, log_prob, targets
        >>> target = targets.Gaussian([1.0, -1.0], 0.25)
        >>> x = target.sample(3)
        >>> torch.allclose(log_prob(target.model(VP()), x).value, target.log_prob(x), atol=1e-5)
        True

    Reference: Song et al. (2021), arXiv 2011.13456, eq. 39; Hutchinson (1989); Grathwohl et al. (2019),
    1810.01367, eq. 8; Meyer et al. (2021), 2010.09649 (Hutch++); docs/theory, eq. 15 and 27-31.
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    _checks.state("x", x)
    steps, probes, chunk = (_checks.count(k, v) for k, v in (("steps", steps), ("probes", probes), ("chunk", chunk)))
    _checks.choice("divergence", divergence, KINDS)
    _checks.device_of(generator)
    _checks.choice("prior", prior, ("auto", "moments", "standard", "model"))
    if not isinstance(solver, (Adams, ODE)):
        raise TypeError(f"solver must be Adams() or ODE(method), got {solver!r}")
    if tolerance is not None:
        _checks.positive("tolerance", tolerance)
    if nodes is not None:
        _checks.count("nodes", nodes, 8)
    if gradient is not None:
        _checks.choice("gradient", gradient, ("direct", "adjoint"))
    if prior == "moments" and model.moments is None:
        raise ValueError('prior="moments" needs moments: Model(..., moments=(mean, covariance)); fit measures them')
    t = _checks.number("t", t, 0.0, model.process.t_max * (1 - 1e-6))
    if looks_discrete(x):
        warnings.warn(
            "x looks discrete: its values lie on a lattice, where densities mean nothing; see bits_per_dim",
            stacklevel=2,
        )
    dim = math.prod(x.shape[1:])
    drawn = Probes.draw(divergence, probes, x, generator, chunk)
    goal = suggested(steps, dim) if tolerance is None else tolerance
    budget = steps * (BUDGET if tolerance is None else GENEROUS)
    highest = {} if isinstance(solver, ODE) or solver.order is None else {"highest": solver.order}
    method = {"method": _package(solver, steps)} if isinstance(solver, ODE) else {}
    settings = {"t": t, "prior": prior, "nodes": nodes, **highest, **method}
    follow = torch.is_grad_enabled() and (gradient is not None or x.requires_grad)
    if follow and gradient == "adjoint":
        result = through(model, x, drawn, goal, budget, settings)
    else:
        with torch.set_grad_enabled(follow):
            result, _ = carry(model, x, drawn, goal, budget, **settings)
    _checks.finite_result("log_prob", result.value)
    if tolerance is not None and not bool(result.converged.all()):
        missed = (~result.converged).nonzero().flatten().tolist()
        more = f" and {len(missed) - 16} more" if len(missed) > 16 else ""
        warnings.warn(f"log_prob did not reach tolerance={tolerance:g} for samples {missed[:16]}{more}", stacklevel=2)
    return result


def _package(solver: ODE, steps: int):
    """torchdiffeq's method in place of `density.within`; the error by a solution with 10 times its tolerance or half
    its steps."""

    def method(
        tolerance: float, walk: Walk, state: Tensor, history: History, end: float, dim: int, highest: int, budget: int,
        nodes: Tensor | None = None,
    ) -> Path:  # fmt: skip
        if nodes is not None:
            raise ValueError("nodes must be None for solver=ODE(...); write solver=Adams()")
        start, adaptive, found = history[0][0], solver.method in ADAPTIVE, []
        for factor in (10.0, 1.0):
            count = 1 if adaptive else max(1, round(steps / (2.0 if factor > 1 else 1.0)))
            grid = torch.linspace(start, end, count + 1, dtype=torch.float64).tolist()
            rtol, atol = factor * solver.rtol, factor * solver.atol
            found.append(solve(_Slope(walk), state, start, end, solver.method, grid=grid, rtol=rtol, atol=atol))
        coarse, fine = (normal(s[:, :dim]) + s[:, dim:].double().mean(1) for s in found)
        error = (fine - coarse).abs().detach()
        slope = walk.at(found[1].detach(), end)[0]
        return Path(found[1], slope, error, torch.zeros_like(error), found[1].new_zeros(0, *state.shape))

    return method


@dataclass(frozen=True)
class _Slope(Dynamics):
    walk: Walk
    noise = "none"

    def drift(self, t: float, x: Tensor) -> Tensor:
        return self.walk.at(x, min(max(t, self.walk.least), self.walk.end))[0]  # a solver's rounding
