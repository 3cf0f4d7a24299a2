"""The default sampler: the flow integrator, Adams–Bashforth–Moulton where the Gaussian part is solved."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from scoresde import _checks
from scoresde.flow import FAR, HIGHEST, Flow, advance, extrapolate, place, ratio
from scoresde.model import Model
from scoresde.samplers.base import Draw, Sampler

COARSE = 1 / 24
"""The step in w above which a call at the noise end is worth more elsewhere, if the model knows its moments."""


@dataclass(frozen=True)
class Adams(Sampler):
    """The probability-flow ODE in the coordinates of `flow`, by a predictor–corrector of one call a step.

        dz/dw = ρ' (s² ε − ρ (x₀ − m)) / h³,   z = (x/α − m)/h,   h² = s² + ρ²

    Exact in one step for Gaussian data whose moments the model knows, with deviations within a factor of ten of
    each other. The slope is zero at the data, and at the noise end if the moments are right: for up to 24 steps
    they are trusted to be (unless conditions were filled in by `given`), and n steps take n − 1 calls; for more,
    the slope there is asked.

    Args:
        order: of convergence, 2 to 5 (5 from the noise end and with the right moments, else 4). None: 3 where a
            step is longer than 1/12 of the way, 5 where it is shorter than 1/24, else 4.
    Raises:
        ValueError: an order outside 2 to 5.

    Example:
        >>> import torch
        >>> from scoresde import RectifiedFlow, sample, samplers, targets
        >>> model = targets.Gaussian([1.0], 0.25).model(RectifiedFlow(), "velocity")
        >>> sample(model, x=torch.tensor([[2.0]]), sampler=samplers.Adams(), steps=1)  # 1 + 2/2: exact in one step
        tensor([[2.]])

    Reference: docs/theory, eq. 10-12; Hairer, Nørsett and Wanner (1993), sec. III.1 and III.5 (variable steps).
    """

    order: int | None = None

    def __post_init__(self) -> None:
        if self.order is not None and not 2 <= _checks.count("order", self.order) <= HIGHEST:
            raise ValueError(f"order must be 2 to {HIGHEST}, or None, got {self.order}")

    def order_of(self, a: float, b: float) -> int:
        """The order of a step from place a to place b; the last, where slopes are O(w²), needs three of them."""
        if b == 0.0 and self.order == 2:
            return 3
        return self.order or (3 if abs(b - a) > 1 / 12 else 4 if abs(b - a) > 1 / 24 else 5)

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        flow, last, z, history, origin = memory or (Flow.of(model, x), None, x, (), None)
        a, b = (place(ratio(model.process, time), flow.frame.scale) for time in (t, s))
        z, order, coarse = z if last is x else flow.into(x, t), self.order_of(a, b), abs(a - b) > COARSE

        def slope(z: Tensor, w: float, time: float = s) -> Tensor | None:
            """None where it is zero: at the data, and at the noise end if the moments are to be trusted."""
            return None if w == 0.0 or (coarse and flow.is_far(w)) else flow.field(z, w, time)

        if origin is None:
            origin, history = (a, z), ((a, slope(z, a, t)),)
        if s == 0.0 and b > 0.0:  # σ(0) > 0: from here one call carries on to the data
            z = extrapolate(z, history[1 - order :], a, b)
        else:
            inside = len(history) == 1 and order > 3 and 0.0 < a < place(FAR, 1.0)
            z, history = advance(slope, z, a, b, history, order, origin)
            if inside:  # a start where the field's Jacobian is not small: the first slope is asked again
                z, history = advance(slope, z, a, b, history[:1], order, origin, z)
        x = flow.back(z, s)
        return x, (flow, x, z, history, origin)
