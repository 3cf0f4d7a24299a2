"""Log-densities carried along the probability flow: from data outwards, or from noise inwards.

log p(x) = log p_T(z_T) + ∫ div_z (dz/dw) dw − Σ log s                                     (docs/theory, eq. 15)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
import torch
from scipy.stats import t as student
from torch import Tensor

from scoresde import _checks
from scoresde.adaptation import HIGHEST, Path, Slopes, integrate
from scoresde.divergence import Probes, pushed
from scoresde.flow import Flow, graded, place, ratio
from scoresde.model import Model, is_conditioned

History = list[tuple[float, Tensor]]
"""Places and slopes (B, N) there, the latest first."""

RATE = 4.0
"""A step may err by this times the tolerance times its length: the sum over all steps then stays below it."""

BUDGET, GENEROUS = 4, 32
"""Calls a sample may take, in units of `steps`: without a tolerance, and to reach one."""

WIDE, STRICT = 0.02, 1e-5
"""t_min beyond this place, or a tolerance below this a dimension: the stretch below t_min takes three calls."""

CAUTION = 1.5
"""Times the sum of the steps' estimates: the reported error, for samples whose steps were long."""

ROUNDS = 3
"""How often samples that missed the tolerance are integrated again."""


@dataclass(frozen=True)
class LogProb:
    """Log-densities of B samples in nats, and what is known of their errors.

    Args:
        value: log p(x), (B,).
        standard_error: (B,), of the trace estimate; 0 where the divergence is exact, infinite where one probe leaves it
            unknown.
        error: (B,), estimated error of the solver and of the stretch below t_min; to it is added what the model's score
            at t_max says of third order beside a prior of the moments.
        nfe: calls of the network along all paths, the mean over the samples. divergences: those of them that took the
            divergence. probes: vectors of its estimate.
        latent: x_T, as x. converged: (B,), whether the errors are within the tolerance.
        prior: which was used, "moments", "model" or "standard". prior_gap: (B,), how much it is above
            log N(x_T; 0, α² + σ²).
        truncation: (B,), what the stretch below t_min, where no network is asked, contributes.
    """

    value: Tensor
    standard_error: Tensor
    error: Tensor
    nfe: int
    latent: Tensor
    divergences: int
    converged: Tensor
    prior: str
    prior_gap: Tensor
    truncation: Tensor
    probes: int = 1

    def interval(self, level: float = 0.95) -> tuple[Tensor, Tensor]:
        """Both ends of the interval for log p(x): Student's for the probes, widened by the solver's error; (B,) each.

        Example:
            >>> import torch
            >>> from scoresde import VP, log_prob, targets
            >>> low, high = log_prob(targets.Gaussian([0.0], 1.0).model(VP()), torch.zeros(1, 1)).interval()
            >>> bool(low <= -0.9189) and bool(high >= -0.9190)
            True
        """
        if not 0 < _checks.number("level", level) < 1:
            raise ValueError(f"level must be between 0 and 1, got {level:g}; write 0.95")
        factor = float(student.ppf((1 + level) / 2, self.probes - 1)) if self.probes > 1 else 1.0
        half = torch.where(self.standard_error > 0, factor * self.standard_error, 0.0) + self.error
        return self.value - half, self.value + half


def suggested(steps: int, dim: int) -> float:
    """The tolerance, in nats, at which a sample takes about `steps` calls."""
    return 3.5e-4 * (40 / steps) ** 7 * dim


def normal(z: Tensor) -> Tensor:
    """log N(z; 0, I): (B, D) -> (B,), float64."""
    return -0.5 * z.double().square().sum(1) - 0.5 * z.shape[1] * math.log(2 * math.pi)


@dataclass
class Walk:
    """The slopes of (z, log p) of B samples for `integrate`, and the calls so far; without probes, of z alone."""

    flow: Flow
    probes: Probes | None
    size: int
    calls: int = 0
    divergences: int = 0
    least: float = field(init=False)
    end: float = field(init=False)

    def __post_init__(self) -> None:
        process, scale = self.flow.model.process, self.flow.frame.scale
        self.least, self.end = (place(ratio(process, t), scale) for t in (process.t_min, process.t_max))
        self.dim, self.together = math.prod(self.flow.shape), is_conditioned(self.flow.model)

    def __call__(self, state: Tensor, w: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        z = state[:, : self.dim]
        if not self.flow.known or not bool((w == 1.0).any()):
            return self.ask(z, w, rows)
        asked = (w < 1.0).nonzero().flatten()  # the moments, being known, leave no slope at pure noise
        slope, score = torch.zeros_like(state), -z
        if len(asked):
            some, its_score = self.ask(z[asked], w[asked], rows[asked])
            slope, score = slope.index_copy(0, asked, some), score.index_copy(0, asked, its_score)
        return slope, score

    def ask(self, z: Tensor, w: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Slopes and scores of the samples `rows`, by one call of the network for each."""
        own = rows
        if self.together and len(rows) < self.size:  # conditions belong to places in the batch
            own = torch.arange(self.size, device=z.device)
            z = z.new_zeros(self.size, self.dim).index_copy(0, rows, z)
            w = torch.full_like(w[:1], 0.5).repeat(self.size).index_copy(0, rows, w)
        self.calls += len(z)
        field = self.flow.fields(w, z.dtype)
        if self.probes is None:
            slope = value = field(z)
        else:
            self.divergences += len(z)
            value, divergence = self.probes.rows(own).of(field, z)
            slope = torch.cat([value, divergence], 1)
        score = self.flow.score(z, w, value)
        return (slope, score) if len(own) == len(rows) else (slope[rows], score[rows])

    def at(self, state: Tensor, w: float) -> tuple[Tensor, Tensor]:
        """Slopes and scores of all samples at one place."""
        places = torch.full((self.size,), w, dtype=torch.float64, device=state.device)
        return self(state, places, torch.arange(self.size, device=state.device))

    def stretch(self, state: Tensor, start: float, fine: bool) -> tuple[History, Tensor, Tensor, Tensor]:
        """What lies between `start` and t_min, where no network is asked: slopes c w² + d w⁵ (docs/theory, eq. 28).

        Takes states at the start, and returns slopes at places of the stretch, the outermost first; the change of the
        state; its share of log p, and the error of that.
        """
        first = self.least
        slope, score = self.at(state, first)
        c, d = slope / first**2, torch.zeros_like(slope)
        if fine:
            second = 1.4 * first
            slope, score = self.at(state + c * first**3 / 3, first)
            c = slope / first**2
            outer, _ = self.at(state + c * second**3 / 3, second)
            d = (outer / second**2 - c) / (second**3 - first**3)
            c = c - d * first**3
        change = c * (first**3 - start**3) / 3 + d * (first**6 - start**6) / 6

        def nats(change: Tensor) -> tuple[Tensor, Tensor]:
            """What a change of the state adds to log p, and the squares of that, entry by entry."""
            moved, grown = (score * change[:, : self.dim]).double(), change[:, self.dim :].double().mean(1)
            return moved.sum(1) + grown, moved.square().sum(1) + grown.square() / self.dim

        share, squares = nats(change)
        error = squares  # (ρ/s)² is twice what a thin entry adds, the next term a quarter of its square
        if fine:  # two terms: the next is to the second as that to the first
            error = nats(d * (first**6 - start**6) / 6)[1] / squares.sqrt().clamp_min(1e-300)
        places = np.linspace(first, start, 4, endpoint=start == 0.0).tolist()
        return [(w, c * w**2 + d * w**5) for w in places], change, share.detach(), error.detach()

    def mismatch(self, z: Tensor, slope: Tensor) -> Tensor:
        """The size of what log p_T has of third order beside N(z; 0, I): (z·g − tr H)/3 (docs/theory, eq. 29)."""
        w = torch.full((self.size,), self.end, dtype=torch.float64, device=z.device)
        rho, change = graded(w, self.flow.frame.scale)
        g = self.flow.score(z, w, slope[:, : self.dim]) + z
        trace = -(rho / change) * slope[:, self.dim :].double().mean(1) if slope.shape[1] > self.dim else 0.0
        return ((z * g).sum(1).double() - trace).abs() / 3

    def prior(self, z: Tensor, kind: str, probes: Probes) -> tuple[Tensor, Tensor]:
        """log p_T in z, and how much it is above log N(x_T; 0, α² + σ²), both (B,).

        "moments": N(z; 0, I). "standard": N(x_T; 0, α² + σ²). "model": what ∇ log p_T, asked at z and −z, says to third
        order of deviations from the former (docs/theory, eq. 29); at pure noise there are none.
        """
        flow, process = self.flow, self.flow.model.process
        level = math.hypot(process.at("alpha", process.t_max), process.at("sigma", process.t_max))
        x = flow.frame.turn(flow.back(z, process.t_max))
        naive = normal(x / level) - self.dim * math.log(level) + flow.log_volume(process.t_max, self.dim)
        if kind == "standard":
            return naive, torch.zeros_like(naive)
        value = normal(z)
        if kind == "model" and self.end < 1.0:
            w = torch.full((self.size,), self.end, dtype=torch.float64, device=z.device)
            field = flow.fields(w, z.dtype)

            def excess(z: Tensor) -> Tensor:
                return flow.score(z, w, field(z)) + z

            def ask(z: Tensor, along: Tensor) -> tuple[Tensor, Tensor, Tensor]:
                self.calls, self.divergences = self.calls + 2 * self.size, self.divergences + 2 * self.size
                g, trace = probes.of(excess, z)
                return g, pushed(excess, z, along[None], probes.chunk)[1][0], trace.double().mean(1)

            (g, h, trace), (g_other, h_other, trace_other) = ask(z, z), ask(-z, z)
            odd, cubic, square = (g + g_other) / 2, z * (h - h_other) / 12, z * (h + h_other) / 4
            terms = odd * z - 2 * cubic + square - 0.5 * odd.square()
            value = value + terms.double().sum(1) - 0.25 * (trace + trace_other)
        return value, (value - naive).detach()


def carry(
    model: Model,
    x: Tensor,
    probes: Probes,
    tolerance: float,
    budget: int,
    *,
    inwards: bool = False,
    t: float = 0.0,
    prior: str = "auto",
    nodes: int | None = None,
    highest: int = HIGHEST,
    method: Callable[..., Path] | None = None,
) -> tuple[LogProb, Tensor]:
    """Log-densities of states x: (B, *) at time t; inwards, of the data that noise x at t_max becomes. Also those data.

    tolerance: nats a sample. budget: calls a sample. nodes: how many Gauss–Legendre nodes take the divergence, the path
    between them plain calls; None: all calls take it. method: what integrates, in place of the Adams method.
    """
    if not x.numel():
        nothing = x.new_zeros(len(x))
        return LogProb(nothing, nothing, nothing, 0, x, 0, nothing == 0, prior, nothing, nothing, probes.columns), x
    flow, process, method = Flow.of(model, x), model.process, method or within
    walk = Walk(flow, probes, len(x))
    fine = walk.least > WIDE or tolerance < STRICT * walk.dim
    z = flow.into(x, process.t_max) if inwards else flow.into(x, t) if t else flow.standard(x)
    state, share = torch.cat([z, x.new_zeros(len(x), probes.columns)], 1), x.new_zeros(len(x))
    floor = share.double()
    if inwards:
        start, end = walk.end, walk.least
        history = [(start, walk.at(state, start)[0])]
    elif t > process.t_min:
        start, end = place(ratio(process, t), flow.frame.scale), walk.end
        history = [(start, walk.at(state, start)[0])]
    else:
        first = place(ratio(process, t), flow.frame.scale) if t else 0.0
        history, change, share, floor = walk.stretch(state, first, fine)
        start, end, state = walk.least, walk.end, state + change
    if nodes is None:
        path = method(tolerance, walk, state, history, end, walk.dim, highest, budget)
        ends, error = path.state, path.error
    else:
        plain, slopes = replace(walk, probes=None, calls=0), [(w, slope[:, : walk.dim]) for w, slope in history]
        where, weights, coarser = gauss(nodes, start, end)
        path = method(
            tolerance / 2, plain, state[:, : walk.dim], slopes, end, walk.dim, highest, budget, where.to(x.device)
        )
        found = torch.stack([walk.at(at, w)[0][:, walk.dim :] for at, w in zip(path.nodes, where.tolist())]).double()
        integrals = [torch.einsum("n,nbk->bk", w.to(found), found) for w in (weights, *coarser)]
        walk.calls += plain.calls
        ends = torch.cat([path.state, state[:, walk.dim :] + integrals[0].to(x.dtype)], 1)
        apart, before = ((a - b).mean(1).abs().detach() for a, b in pairwise(integrals))
        error = path.error + apart * (apart / before.clamp_min(1e-300)).clamp_max(1.0).sqrt()
    if inwards:
        _, change, share, floor = walk.stretch(ends, 0.0, fine)
        ends = ends - change
    z_end = z if inwards else ends[:, : walk.dim]
    prior = ("moments" if flow.known else "model") if prior == "auto" else prior
    at_end, gap = walk.prior(z_end, prior, probes)
    converged = error + floor <= tolerance
    error = CAUTION * error + floor
    if prior == "moments" and not inwards and walk.end < 1.0:
        error = error + walk.mismatch(z_end, path.slope).detach()
    each = ends[:, walk.dim :].double() * (-1.0 if inwards else 1.0)
    value = at_end + each.mean(1) - flow.log_volume(t, walk.dim)
    data = flow.back(ends[:, : walk.dim], 0.0) if inwards else x
    latent = x if inwards else flow.back(z_end, process.t_max)
    size = max(1, len(x))
    result = LogProb(
        value.to(x.dtype), probes.standard_error(each.detach()).to(x.dtype), error.to(x.dtype),
        math.ceil(walk.calls / size), latent, math.ceil(walk.divergences / size), converged,
        prior, gap.to(x.dtype), share.to(x.dtype), probes.columns,
    )  # fmt: skip
    return result, data


def within(
    tolerance: float, walk: Slopes, state: Tensor, history: History, end: float, dim: int, highest: int, budget: int,
    nodes: Tensor | None = None,
) -> Path:  # fmt: skip
    """`integrate`, and again with smaller steps for the samples whose estimated error missed the tolerance."""
    rate = torch.full((len(state),), RATE * tolerance, dtype=torch.float64, device=state.device)
    path = integrate(walk, state, history, end, rate, dim=dim, highest=highest, budget=budget, nodes=nodes)
    for _ in range(ROUNDS):
        again = ((path.error > tolerance) & (2 * path.calls < budget)).nonzero().flatten()
        if not len(again):
            break
        rate = rate.index_copy(0, again, (0.5 * tolerance / path.error * rate)[again])
        part = integrate(
            lambda state, w, rows, again=again: walk(state, w, again[rows]),
            state[again], [(w, slope[again]) for w, slope in history], end, rate[again],
            dim=dim, highest=highest, budget=budget - path.calls[again], nodes=nodes,
        )  # fmt: skip
        path = Path(
            path.state.index_copy(0, again, part.state), path.slope.index_copy(0, again, part.slope),
            path.error.index_copy(0, again, part.error),
            path.calls.index_add(0, again, part.calls), path.nodes.index_copy(1, again, part.nodes),
        )  # fmt: skip
    return path


def gauss(count: int, start: float, end: float) -> tuple[Tensor, Tensor, list[Tensor]]:
    """Gauss–Legendre places and weights on [start, end], and the weights through every second and fourth of them."""
    roots, weights = np.polynomial.legendre.leggauss(count)
    coarser = []
    for every in (2, 4):
        index = np.arange(every // 4, count, every)
        basis = np.polynomial.legendre.legvander(roots[index], len(index) - 1).T
        some = np.zeros(count)
        some[index] = np.linalg.solve(basis, 2.0 * (np.arange(len(index)) == 0))
        coarser.append(torch.tensor(some * (end - start) / 2))
    return torch.tensor(start + (end - start) * (roots + 1) / 2), torch.tensor(weights * (end - start) / 2), coarser
