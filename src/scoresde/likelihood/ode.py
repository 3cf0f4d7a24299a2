"""Log-likelihoods by the probability-flow ODE, in the coordinates of `flow`.

log p(x) = log N(z_T; 0, I) + ∫ div_z (dz/dw) dw − Σ log s                                 (docs/theory, eq. 15)
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.dynamics import Dynamics
from scoresde.flow import Flow, advance, place, places, ratio, times
from scoresde.model import Model, is_conditioned
from scoresde.process.base import randn
from scoresde.samplers import ODE, Adams
from scoresde.solve import ADAPTIVE, solve

EXACT_UP_TO = 256
"""The dimension up to which divergence="auto" is exact."""

Slope = Callable[[Tensor, float], Tensor]

DEFAULT_TOLERANCE = 5e-4
"""Nats a dimension: samples whose estimated error is above it are integrated again with more steps."""

FALL = 1 / 8
"""The least share of an estimated error that halving the steps is trusted to leave: what third order leaves."""

ORDER = 3
"""Of Adams() here: beyond, points between modes, where the flow outwards expands most, are off by more."""

POWER = 1.0
"""Of the grading (docs/theory, eq. 12): from the data outwards, times need not crowd there as a sampler's do."""

ROWS = 2**14
"""How many rows a batched Jacobian product may have at once."""


@dataclass(frozen=True)
class LogProb:
    """The answer of `log_prob`: one entry of each field for one sample.

    value: log p(x) in nats. standard_error: of the trace estimate; 0 where the divergence is exact, infinite
    where one probe leaves it unknown. error: estimated error of the solver in nats, by solutions with half and a
    third of the steps. nfe: calls of the network along all paths, the mean over the samples. latent: x_T, as x.
    """

    value: Tensor
    standard_error: Tensor
    error: Tensor
    nfe: int
    latent: Tensor


def log_prob(
    model: Model,
    x: Tensor,
    steps: int = 40,
    *,
    divergence: str = "auto",
    probes: int = 1,
    tolerance: float | None = None,
    solver: Adams | ODE = Adams(),  # noqa: B008  (frozen)
    generator: torch.Generator | None = None,
) -> LogProb:
    """log p(x) of each sample under the model's probability flow.

    The prior at t_max is the normal distribution with the mean and covariance that the model's `moments` have
    there (mean 0, covariance α² + σ² without them).

    Args:
        x: (B, *), data, continuous (for integer data see `bits_per_dim`). steps: of the flow integrator, to begin.
        divergence: "exact" (D products of the Jacobian by forward mode, all in batches), "hutchinson"
            (`probes` Rademacher vectors a sample, the same along the whole path), "auto": exact up to D = 256.
        probes: 1 or more; from 2 on the standard error is known.
        tolerance: nats a sample: with Adams, samples whose estimated error is above it are integrated again with
            twice the steps, up to 32 times as many; a warning names those that did not get there. None: 5e-4 nats
            a dimension, up to 16 times as many steps, no warning.
        solver: Adams(), of order 3 if it names none, or ODE(method, rtol, atol) for torchdiffeq's methods on the
            same equation.
        generator: the source of the probes.
    Returns:
        LogProb. Differentiable in x, if x requires gradients.
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
    1810.01367, eq. 8; docs/theory, eq. 15.
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    _checks.state("x", x)
    steps, probes = _checks.count("steps", steps), _checks.count("probes", probes)
    _checks.choice("divergence", divergence, ("auto", "exact", "hutchinson"))
    if not isinstance(solver, (Adams, ODE)):
        raise TypeError(f"solver must be Adams() or ODE(method), got {solver!r}")
    if tolerance is not None:
        _checks.positive("tolerance", tolerance)
    dim = math.prod(x.shape[1:])
    exact = divergence == "exact" or (divergence == "auto" and dim <= EXACT_UP_TO)
    vectors = None
    if not exact:  # one draw a sample, kept for the whole path
        signs = randn((probes, x.shape[0], dim), generator, x.device, x.dtype) > 0
        vectors = torch.where(signs, 1.0, -1.0).to(x.dtype)
    if not x.numel():
        nothing = x.new_zeros(x.shape[0])
        return LogProb(nothing, nothing, nothing, 0, x)
    with torch.set_grad_enabled(x.requires_grad and torch.is_grad_enabled()):
        flow, spent = Flow.of(model, x, POWER), [0]
        coarse, _ = _integrate(flow, x, max(1, steps // 2), vectors, _eased(solver), spent)
        each, latent = _integrate(flow, x, steps, vectors, solver, spent)
        error = (each - coarse).abs().mean(1).detach()
        if isinstance(solver, Adams):  # two solutions may agree by accident: a third, coarser, tells
            coarser, _ = _integrate(flow, x, max(1, steps // 3), vectors, solver, spent)
            error = error.maximum(FALL * (coarse - coarser).abs().mean(1).detach())
        goal, rounds = (DEFAULT_TOLERANCE * dim, 4) if tolerance is None else (tolerance, 5)
        for _ in range(rounds if isinstance(solver, Adams) else 0):
            rough = (error > goal).nonzero().flatten()
            if not len(rough):
                break
            steps = 2 * steps
            again = torch.arange(len(x), device=x.device) if is_conditioned(model) else rough
            part = None if vectors is None else vectors[:, again]
            finer, ends = _integrate(flow, x[again], steps, part, solver, spent)
            keep = torch.isin(again, rough)
            moved = (finer.detach()[keep] - each.detach()[rough]).abs().mean(1)
            error = error.index_copy(0, rough, moved.maximum(FALL * error[rough]))
            each, latent = each.index_copy(0, rough, finer[keep]), latent.index_copy(0, rough, ends[keep])
    columns, unknown = each.shape[1], 0.0 if exact else math.inf
    spread = each.std(1) / math.sqrt(columns) if columns > 1 else torch.full_like(error, unknown)
    if tolerance is not None and bool((error > tolerance).any()):
        missed = (error > tolerance).nonzero().flatten().tolist()
        warnings.warn(f"log_prob did not reach tolerance={tolerance:g} for samples {missed[:16]}", stacklevel=2)
    value = _checks.finite_result("log_prob", each.mean(1).to(x.dtype))
    return LogProb(value, spread.to(x.dtype), error.to(x.dtype), round(spent[0] / len(x)), latent)


def _eased(solver: Adams | ODE) -> Adams | ODE:
    """The solver of the coarser solution: for adaptive methods at ten times the tolerance."""
    return replace(solver, rtol=10 * solver.rtol, atol=10 * solver.atol) if isinstance(solver, ODE) else solver


def _integrate(
    flow: Flow, x: Tensor, steps: int, vectors: Tensor | None, solver: Adams | ODE, spent: list[int]
) -> tuple[Tensor, Tensor]:
    """Log-densities (B, k), one for each column of the divergence, and the latents; `spent` counts samples' calls."""
    process, scale, dim = flow.model.process, flow.frame.scale, math.prod(x.shape[1:])
    where = places(process, steps, scale, power=POWER)[::-1]
    where = where if where[0] == 0.0 else [0.0, *where]  # VE's σ(0) is one more step
    least = place(ratio(process, process.t_min), scale, POWER)

    def slope(state: Tensor, w: float) -> Tensor:
        """d(z, ∫div)/dw: (B, D + k). Below t_min it falls to zero linearly."""
        w = min(w, 1.0)  # a solver's rounding
        if w == 0.0 or (w == 1.0 and flow.known):
            return torch.zeros_like(state)
        spent[0] += len(state)
        at = max(w, least)
        t = process.t_min if w <= least else times(process, [w], scale, POWER)[0]
        value, divergences = divergence_of(lambda z: flow.field(z, at, t), state[:, :dim], vectors)
        return w / at * torch.cat([value, divergences], 1)

    state = torch.cat([flow.standard(x), x.new_zeros(len(x), 1 if vectors is None else len(vectors))], 1)
    if isinstance(solver, ODE):
        grid = [where[0], where[-1]] if solver.method in ADAPTIVE else where
        equation, rtol, atol = _Slope(slope), solver.rtol, solver.atol
        state = solve(equation, state, grid[0], grid[-1], solver.method, grid=grid, rtol=rtol, atol=atol)
    else:
        origin, history = (where[0], state), ((where[0], slope(state, where[0])),)
        for a, b in pairwise(where):
            state, history = advance(slope, state, a, b, history, solver.order or ORDER, origin)
    wide = state.double()
    normal = -0.5 * (wide[:, :dim] ** 2).sum(1, keepdim=True) - 0.5 * dim * math.log(2 * math.pi)
    latent = flow.back(state[:, :dim], process.t_max)
    return normal + wide[:, dim:] - flow.frame.log_volume(dim), latent


@dataclass(frozen=True)
class _Slope(Dynamics):
    function: Slope
    noise = "none"

    def drift(self, t: float, x: Tensor) -> Tensor:
        return self.function(x, t)


def divergence_of(field: Callable[[Tensor], Tensor], z: Tensor, vectors: Tensor | None) -> tuple[Tensor, Tensor]:
    """field(z): (B, D) and its divergence: (B, 1), exact by forward mode, or (B, k), vᵀJv of k vectors (k, B, D)."""
    exact = vectors is None
    if vectors is None:
        vectors = torch.eye(z.shape[1], dtype=z.dtype, device=z.device)[:, None].expand(-1, *z.shape)

    def push(v: Tensor) -> tuple[Tensor, Tensor]:
        value, pushed = torch.func.jvp(field, (z,), (v,))  # pyright: ignore[reportAssignmentType]
        return value, pushed

    value, traces = z, []
    for piece in vectors.split(max(1, ROWS // z.shape[0])):
        try:
            value, pushed = torch.vmap(push, out_dims=(None, 0), randomness="same")(piece.contiguous())  # pyright: ignore
        except RuntimeError as error:
            raise ValueError(
                f"net cannot be differentiated forwards ({str(error).splitlines()[0][:120]}); call net.eval(), "
                "or give its own autograd functions a jvp and generate_vmap_rule"
            ) from error
        traces.append((pushed * piece).sum(-1))
    products = torch.cat(traces).mT
    return value, products.sum(1, keepdim=True) if exact else products
