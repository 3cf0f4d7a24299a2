"""Gradients of log-densities by the adjoint equation: memory does not grow with the steps.

a(w) = ∂ log p/∂z(w),    da/dw = −∇_z (a·f + div f),    ∂ log p/∂θ = ∫ ∂_θ (a·f + div f) dw        (docs/theory, eq. 31)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from scoresde.density import LogProb, Walk, carry, gauss, within
from scoresde.divergence import Probes
from scoresde.flow import Flow
from scoresde.model import Model

NODES = 32
"""The least number of Gauss–Legendre nodes for the gradient in the parameters; rough networks get as many as calls."""


def through(
    model: Model, x: Tensor, probes: Probes, tolerance: float, budget: int, settings: dict[str, Any]
) -> LogProb:
    """`carry` from data outwards, its value differentiable in x and in the parameters of the network."""
    weights = [p for p in model.net.parameters() if p.requires_grad] if isinstance(model.net, nn.Module) else []
    with torch.no_grad():
        result, _ = carry(model, x, probes, tolerance, budget, **settings)
    back = _Backwards(model, probes, tolerance, budget, result.prior, max(NODES, result.nfe))
    return replace(result, value=_Through.apply(x, result, back, *weights))  # pyright: ignore[reportArgumentType]


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, result: LogProb, back: Callable[..., Any], *weights: Tensor) -> Tensor:
        ctx.save_for_backward(x, result.latent, *weights)
        ctx.back = back
        return result.value.clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, latent, *weights = ctx.saved_tensors
        gradient, rest = ctx.back(x, latent, weights, grads[0])
        return gradient, None, None, *rest


class _Backwards:
    """The adjoint equation from the latent back to the data, and the gradients that it gives."""

    def __init__(self, model: Model, probes: Probes, tolerance: float, budget: int, kind: str, nodes: int) -> None:
        self.model, self.probes, self.kind, self.nodes = model, probes, kind, nodes
        self.tolerance, self.budget = tolerance, budget

    def __call__(self, x: Tensor, latent: Tensor, weights: list[Tensor], outer: Tensor) -> tuple[Tensor, list[Tensor]]:
        walk = Walk(Flow.of(self.model, x), self.probes, len(x))
        dim = walk.dim
        totals = [torch.zeros_like(p) for p in weights]

        def add(value: Tensor, *inputs: Tensor) -> list[Tensor]:
            """Adds the gradient of a sum to the parameters' totals, and returns that in the inputs."""
            if not value.requires_grad or not (inputs or weights):
                return [torch.zeros_like(v) for v in inputs]
            found = torch.autograd.grad(value, [*inputs, *weights], allow_unused=True)
            for total, part in zip(totals, found[len(inputs) :]):
                if part is not None:
                    total += part
            return [torch.zeros_like(v) if g is None else g for v, g in zip(inputs, found)]

        def gain(state: Tensor, a: Tensor, slope: Tensor) -> Tensor:
            return (a * slope[:, :dim]).sum(1) + slope[:, dim:].mean(1)

        def slopes(state: Tensor, w: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
            z, a = state.split(dim, 1)
            with torch.enable_grad():
                z = z.detach().requires_grad_()
                slope, score = walk(z, w, rows)
                total = gain(state, a, slope).sum()
                (down,) = torch.autograd.grad(total, z) if total.requires_grad else (torch.zeros_like(z),)
            return torch.cat([slope[:, :dim].detach(), -down], 1), torch.cat([score.detach(), -z.detach()], 1)

        z_end = walk.flow.into(latent, self.model.process.t_max).detach().requires_grad_()
        with torch.enable_grad():
            end, _ = walk.prior(z_end, self.kind, self.probes)
            (a,) = torch.autograd.grad(end.sum(), z_end, retain_graph=True)
            add((end * outer).sum())
        state = torch.cat([z_end.detach(), a.to(z_end)], 1)
        everyone = torch.arange(len(x), device=x.device)
        first, _ = slopes(state, torch.full((len(x),), walk.end, dtype=torch.float64, device=x.device), everyone)
        where, measure, _ = gauss(self.nodes, walk.least, walk.end)
        path = within(
            self.tolerance, slopes, state, [(walk.end, first)], walk.least, 2 * dim, 8, self.budget, where.to(x.device)
        )
        for at, w, weight in zip(path.nodes if weights else (), where.tolist(), measure.tolist()):
            z, a = at.split(dim, 1)
            with torch.enable_grad():
                add((weight * outer * gain(z, a, walk.at(z, w)[0])).sum())
        _, a = path.state.split(dim, 1)
        with torch.enable_grad():
            data = x.detach().requires_grad_()
            z = walk.flow.standard(data)
            state = torch.cat([z, z.new_zeros(len(x), self.probes.columns)], 1)
            _, change, _, _ = walk.stretch(state, 0.0, False)
            (gradient,) = add((outer * gain(state, a, change) + outer * (a * z).sum(1)).sum(), data)
        return gradient, totals
