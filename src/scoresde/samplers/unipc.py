"""UniPC: the exponential stepper with a corrector one order above its predictor, and B(h) for its integrals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from scoresde import _checks
from scoresde.samplers.exponential import Stepper
from scoresde.samplers.quadrature import moments


@dataclass(frozen=True)
class UniPC(Stepper):
    """UniP-p and UniC-p: predict through p predictions, correct through p + 1, one call a step. Deterministic.

    Strong order p + 1; 3 for p = 3, whose first steps allow no more. The predictor of the last step is not corrected.
    Where two predictions are used, the integral of the slope is B(h)/2 as published, else it is exact, so that
    bh1 and bh2 differ in the first steps and in orders 1 and 2 only (docs/theory, eq. 20).

    Args:
        order: p, 1 to 3. variant: "bh1", B = h, or "bh2", B = e^h − 1 (of −h for data predictions).
        prediction: "x0" or "noise".
    Raises:
        ValueError: an order outside 1 to 3, an unknown variant or prediction.

    Example:
        >>> import torch
        >>> from scoresde import RectifiedFlow, sample, samplers, targets
        >>> model = targets.Gaussian([1.0], 0.25).model(RectifiedFlow(), "velocity")
        >>> x = torch.tensor([[2.0]]).double()  # pure noise, two deviations above its mean; so are the data: 2
        >>> errors = [abs(float(sample(model, x=x, sampler=samplers.UniPC(order=2), steps=n)) - 2) for n in (40, 80)]
        >>> round(errors[0] / errors[1])  # order 3
        8

    Reference: Zhao et al. (2023), arXiv 2302.04867, eq. 3-11, algorithms 1 and 2.
    """

    order: int = 3
    variant: Literal["bh1", "bh2"] = "bh2"
    prediction: Literal["x0", "noise"] = "x0"
    rule = "published"
    orders = (1, 2, 3)

    def __post_init__(self) -> None:
        _checks.count("order", self.order)
        super().__post_init__()
        _checks.choice("variant", self.variant, ("bh1", "bh2"))

    @property
    def corrector(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.order + 1

    def integrals(self, z: float, n: int) -> tuple[float, ...]:
        exact = moments(z, n)
        return exact if n != 2 else (exact[0], exact[0] / 2 if self.variant == "bh2" else 0.5)
