"""An Adams method of variable order and step, a step of its own for every sample, that controls the error of log p.

P = S + ∫ Lagrange(slopes at the newest k − 1 places),   S' = S + ∫ Lagrange(slope(P) and those)     (theory, eq. 27)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

HIGHEST = 8
"""The highest order: beyond, the steps that stay stable are shorter than those that the error would allow."""

FIRST = 1 / 40
"""The length of the first step."""

SAFETY, SHRINK, GROW = 0.65, 0.2, 2.0
"""A step is this share of what its error allows; it changes by no more than these factors."""

LONGEST = 0.25
"""The longest step: slopes of a mixture may look calm until its modes part."""

LEAD = 0.1
"""By how much the share of calls spent may lead that of the way gone, before a step's error may be larger: by ten for
each as much again, so that a tolerance out of reach is missed evenly along the way."""

FREEDOM = 8
"""How many times shorter than the calls left allow on average a step may be."""

NOTCHES = 8
"""Steps are powers of 2^(1/8), so that rounding in another batch does not move the places."""

Slopes = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""(state (A, N), places (A,), rows (A,)) -> the slopes (A, N), and ∇ log p with respect to z (A, D), of those rows."""


@dataclass(frozen=True)
class Path:
    """End states and slopes (B, N), estimated errors of log p in nats (B,), calls (B,), states at nodes (n, B, N)."""

    state: Tensor
    slope: Tensor
    error: Tensor
    calls: Tensor
    nodes: Tensor


def integrate(
    slopes: Slopes,
    state: Tensor,
    history: Sequence[tuple[float, Tensor]],
    end: float,
    rate: Tensor,
    *,
    dim: int,
    highest: int = HIGHEST,
    budget: int | Tensor = 1280,
    nodes: Tensor | None = None,
) -> Path:
    """Carry states (B, N), z: (B, dim) and log-densities beside it, from the place where `history` begins to `end`.

    history: places and slopes (B, N) there, the latest first, at least one.

    A step is accepted if its estimated error of log p is below `rate`: (B,), nats, times its length; a sample that has
    used `budget` calls is carried to the end by steps as long as that takes. `nodes`: places where states are wanted.
    """
    size, device, history = len(state), state.device, history[:highest]
    start, blank = history[0][0], highest - len(history)
    way = 1.0 if end > start else -1.0
    past = torch.stack([slope for _, slope in history] + [torch.zeros_like(state)] * blank)  # newest first
    places = torch.tensor([w for w, _ in history] + [math.nan] * blank, dtype=torch.float64, device=device)
    where, place = places.repeat(size, 1), places[:1].repeat(size)
    known = torch.full((size,), len(history), device=device)
    order, step = (known + 1).clamp_max(highest), torch.full_like(place, FIRST)
    calls, error, open_ = torch.zeros_like(known), torch.zeros_like(place), torch.ones_like(known, dtype=torch.bool)
    budget = torch.as_tensor(budget, device=device).expand(size)
    states = [torch.zeros_like(state) for _ in (() if nodes is None else nodes)]
    while len(rows := open_.nonzero().flatten()):
        at, old, seen, k = place[rows], where[rows], known[rows], order[rows]
        left = (end - at).abs()
        least = left / (budget - calls)[rows].clamp_min(1) / FREEDOM
        length = torch.maximum(step[rows], least)
        ahead = calls[rows] / budget[rows] - 1 + left / abs(end - start) - LEAD
        allowed = rate[rows] * 10 ** (ahead.clamp_min(0) / LEAD)
        length = torch.where(length > 0.9 * left, left, length)
        to = torch.where(length == left, torch.full_like(at, end), at + way * length)
        base, slope_past = state[rows], past[:, rows]

        index = torch.arange(highest, device=device)
        weights = _integrals(old, index < (k - 1)[:, None], at, to)
        guess = base + torch.einsum("bj,jbn->bn", weights.to(base), slope_past)
        slope, score = slopes(guess, to, rows)
        fresh = torch.cat([to[:, None], old[:, :-1]], 1)
        recent = torch.cat([slope[None], slope_past[:-1]])
        used = index < k[:, None]
        new = base + torch.einsum("bj,jbn->bn", _integrals(fresh, used, at, to).to(base), recent)

        with torch.no_grad():
            orders = (k[:, None] + torch.tensor([-1, 0, 1], device=device)).clamp(2, highest)
            away = torch.einsum("boj,jbn->bon", _leading(fresh, orders, at, to).to(base), recent)
            push = (away[..., :dim] * score[:, None]).sum(-1).abs()
            lost = (push + away[..., dim:].mean(-1).abs() if away.shape[-1] > dim else push).double()
            lost = torch.where(orders <= (seen + 1)[:, None], lost, math.inf).nan_to_num(math.inf, math.inf)
            mine = lost[:, 1]
            good = (mine <= allowed * length) | (length <= 1.001 * least) | (length < 1e-9)
            factors = SAFETY * ((allowed * length)[:, None] / lost.clamp_min(1e-300)) ** (1 / orders)
            change = torch.where(good[:, None], factors, factors[:, 1:2].clamp_max(0.9))
            best = (change + torch.tensor([0.0, 0.05, 0.0], device=device) * change).argmax(1)
            chosen = change.gather(1, best[:, None]).squeeze(1).nan_to_num(SHRINK)
            notch = ((length * chosen.clamp(SHRINK, GROW)).log2() * NOTCHES).floor() / NOTCHES
            step = step.index_copy(0, rows, (2**notch).clamp(1e-12, LONGEST))
            order = order.index_copy(0, rows, orders.gather(1, best[:, None]).squeeze(1))
            calls = calls.index_add(0, rows, torch.ones_like(rows))

        taken = rows[good]
        for i, node in enumerate(() if nodes is None else nodes):
            inside = good & ((node - at) * way > 0) & ((to - node) * way >= 0)
            if bool(inside.any()):
                here = _integrals(fresh[inside], used[inside], at[inside], node.expand(int(inside.sum())))
                part = base[inside] + torch.einsum("bj,jbn->bn", here.to(base), recent[:, inside])
                states[i] = states[i].index_copy(0, rows[inside], part)
        state, place = state.index_copy(0, taken, new[good]), place.index_copy(0, taken, to[good])
        past, where = past.index_copy(1, taken, recent[:, good]), where.index_copy(0, taken, fresh[good])
        known = known.index_copy(0, taken, (seen + 1).clamp_max(highest)[good])
        error = error.index_add(0, taken, mine[good])
        open_ = place != end
    return Path(state, past[0], error, calls, torch.stack(states) if states else state.new_zeros(0, *state.shape))


_ROOTS, _WEIGHTS = (torch.tensor(v) for v in np.polynomial.legendre.leggauss(HIGHEST // 2 + 1))


def _quadrature(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Gauss–Legendre nodes and weights (B, Q) on [a, b], exact for the polynomials used here."""
    half = ((b - a) / 2)[:, None]
    return a[:, None] + half * (1 + _ROOTS.to(a)), half * _WEIGHTS.to(a)


def _integrals(nodes: Tensor, used: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """∫ₐᵇ of Lagrange's polynomials on the `used` ones of the nodes (B, K): (B, K), 0 for the others."""
    points, weights = _quadrature(a, b)
    pair = used[:, :, None] & used[:, None, :] & ~torch.eye(nodes.shape[1], dtype=torch.bool, device=nodes.device)
    gaps = torch.where(pair, nodes[:, :, None] - nodes[:, None, :], 1.0)
    reach = torch.where(pair[:, None], (points[:, :, None] - nodes[:, None])[:, :, None], 1.0)  # (B, Q, j, i)
    return torch.where(used, ((reach / gaps[:, None]).prod(-1) * weights[..., None]).sum(1), 0.0)


def _leading(nodes: Tensor, orders: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """(B, O, K): weights of slopes in the difference of the correctors of orders q and q − 1, q in `orders` (B, O).

    It is the divided difference over the newest q nodes, b first, times ∫ₐᵇ (u − b) Π (u − node) over the next q − 2.
    """
    index = torch.arange(nodes.shape[1], device=nodes.device)
    used = index < orders[..., None]  # (B, O, K)
    points, weights = _quadrature(a, b)
    reach = torch.where((index < orders[..., None] - 1)[:, :, None], (points[..., None] - nodes[:, None])[:, None], 1.0)
    integral = (reach.prod(-1) * weights[:, None]).sum(-1)
    pair = used[..., None] & used[..., None, :] & ~torch.eye(len(index), dtype=torch.bool, device=nodes.device)
    gaps = torch.where(pair, (nodes[:, :, None] - nodes[:, None, :])[:, None], 1.0).prod(-1)
    return torch.where(used, integral[..., None] / gaps, 0.0)  # NaN beyond the slopes there are: no such order
