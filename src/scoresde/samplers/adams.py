"""The default sampler: the flow integrator, Adams–Bashforth–Moulton where the Gaussian part is solved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde import _checks
from scoresde.flow import Flow, advance, place, ratio
from scoresde.model import Model
from scoresde.samplers.base import Draw, Sampler


@dataclass(frozen=True)
class Adams(Sampler):
    """The probability-flow ODE in the coordinates of `flow`, by a predictor–corrector of one call a step.

        dz/dw = ρ' (s² ε − ρ (x₀ − m)) / h³,   z = (x/α − m)/h,   h² = s² + ρ²

    Exact in one step for Gaussian data whose moments the model knows. The slope is zero at both ends of time,
    so the last step, to the data, needs no call.

    Args:
        order: of convergence, 2 or 3. None: 2 where a step is longer than a ninth of the way, else 3. (The first
            step is of second order; a higher order of the rest would promise what the start does not keep.)

    Reference: docs/theory, eq. 10-12; Hairer, Nørsett and Wanner (1993), sec. III.1 and III.5 (variable steps).
    """

    order: int | None = None

    def __post_init__(self) -> None:
        if self.order is not None and _checks.count("order", self.order) not in (2, 3):
            raise ValueError(f"order must be 2, 3 or None, got {self.order}")

    def order_of(self, a: float, b: float) -> int:
        """The order of a step from place a to place b."""
        return self.order or (2 if abs(b - a) > 1 / 9 else 3)

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        flow, a, history = memory or (Flow.of(model, x), None, ())
        z = flow.into(x, t)
        if a is None:
            a = place(ratio(model.process, t), flow.frame.scale)
            history = ((a, z.new_zeros(()).expand_as(z) if a in (0.0, 1.0) else flow.field(z, a, t)),)
        b = place(ratio(model.process, s), flow.frame.scale)
        order = self.order_of(a, b)

        def slope(z: Tensor, w: float) -> Tensor | None:
            if w in (0.0, 1.0):
                return z.new_zeros(()).expand_as(z)  # smooth data: no flow left at either end
            return None if s == 0.0 else flow.field(z, w, s)

        z, history = advance(slope, z, a, b, history, order)
        return flow.back(z, s), (flow, b, history)
