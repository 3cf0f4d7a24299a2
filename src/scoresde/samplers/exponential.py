"""The exponential stepper: the reverse SDE in λ = log(α/σ), its linear part exact, its prediction a polynomial.

With h = λ_s − λ_t and the dial η (η = 0: the probability flow), from data predictions and from noise predictions,

    x_s = (σ_s/σ_t) e^{−η²h} x_t + (1 + η²) α_s ∫ e^{(1+η²)(λ−λ_s)} x̂₀ dλ + σ_s √(1 − e^{−2η²h}) ξ
    x_s = (α_s/α_t) x_t − (1 + η²) σ_s ∫ e^{λ_s−λ} ε̂ dλ + η σ_s √(e^{2h} − 1) ξ        (docs/theory, eq. 17-18)

The named members of the family are choices of its settings (dpm.py, unipc.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from scoresde import _checks
from scoresde.flow import ratio
from scoresde.model import Model
from scoresde.process import Process
from scoresde.samplers import grids
from scoresde.samplers.base import Draw, Sampler, data_scale, from_data
from scoresde.samplers.noise import NOISES, Noise
from scoresde.samplers.quadrature import Node, ask, clock, combine, lagrange, moments


class Stepper(Sampler):
    """The exponential step by settings that subclasses declare as fields or fix; see `Exponential` for what they mean.

    A step keeps (base, start, history): the state of the last step before its predictions were added, where that
    step began, and the predictions so far. A corrector adds them anew, with the one just made among them.
    """

    prediction: str = "x0"
    order: int = 3
    eta: float = 0.0
    method: str = "multistep"
    corrector: int = 0
    rule: str = "exact"
    orders: tuple[int, ...] = (1, 2, 3, 4)
    published: int = 3

    def __post_init__(self) -> None:
        _checks.choice("prediction", self.prediction, ("x0", "noise"))
        _checks.choice("method", self.method, ("multistep", "singlestep"))
        _checks.choice("rule", self.rule, ("exact", "published"))
        _checks.choice("noise", self.noise, NOISES)
        _checks.number("eta", self.eta, 0.0)
        _checks.count("corrector", self.corrector, 0)
        if _checks.count("order", self.order) not in self.orders:
            raise ValueError(f"order must be one of {self.orders}, got {self.order}")
        if self.rule == "published" and self.order > self.published:
            raise ValueError(f"order must be at most {self.published} for rule='published', got {self.order}")
        if self.method == "singlestep":
            if self.order > (2 if self.eta else 3):
                limit = "2 with eta > 0, 3 with eta = 0"
                raise ValueError(f"order must be at most {limit} for method='singlestep', got {self.order}")
            if self.corrector:
                raise ValueError("corrector must be 0 for method='singlestep', which is corrected by its stages")

    @property
    def stochastic(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.eta > 0

    def grid(self, model: Model, steps: int) -> Tensor:
        """Published rules: `grids.logsnr`. Order 1: the graded grid. Else equal steps in w, σ/α = A (w/(1 − w))^q.

        q = p/2 + 1/4 is enough for order p, weak or strong, up to both ends (docs/theory, "The grid"). A is the data's
        standard deviation. For data predictions it is half of that, and q at most max(1, steps/10), which few steps
        prefer, if the end is σ = 0.
        """
        process, order = model.process, max(self.order, self.corrector)
        order = min(order, 2) if self.eta else order
        if self.rule == "published":
            return self.begin(model, grids.logsnr(process, steps))
        if order == 1:
            return super().grid(model, steps)
        front, power = data_scale(model), order / 2 + 1 / 4
        if self.prediction == "x0" and process.at("sigma", 0.0) == 0.0:
            front, power = front / 2, min(power, max(1.0, steps / 10))

        def place(t: float) -> float:
            return 1 / (1 + (front / rho) ** (1 / power)) if (rho := ratio(process, t)) else 0.0

        first, least, last = place(process.t_max), place(process.t_min), place(0.0)
        if last == 0.0 and first / steps < least < first:
            where = [*np.linspace(first, least, steps), 0.0]
        else:
            where = np.linspace(first, last, steps + 1)
        times = process.time(-2 * (math.log(front) + power * torch.logit(torch.as_tensor(np.array(where)))))
        times[0], times[-1] = process.t_max, 0.0
        return self.begin(model, times)

    # --- coefficients ---

    def integrals(self, z: float, n: int) -> tuple[float, ...]:
        """What the rule takes ∫₀¹ e^{z(u−1)} u^k du to be, for a polynomial through n nodes."""
        exact = moments(z, n)
        if self.rule == "exact" or n == 1 or (self.method == "singlestep" and self.order == 3):
            return exact
        return (*exact[:-1], exact[0] / 2 if n == 2 else exact[-1] / 2)

    def factors(self, process: Process, a: float, s: float, nodes: Sequence[Node]) -> list[float]:
        """The weights of the predictions `nodes` in the step from λ = a to time s."""
        h = clock(process, s) - a
        dial = 1 + self.eta**2
        data = self.prediction == "x0"
        front = dial * h * (process.at("alpha", s) if data else -process.at("sigma", s))
        places = tuple((node.place - a) / h for node in nodes)
        return [front * w for w in lagrange(places, self.integrals(dial * h if data else -h, len(nodes)))]

    def gain(self, process: Process, t: float, s: float) -> float:
        """The weight of x_t in x_s."""
        if self.prediction == "noise":
            return process.at("alpha", s) / process.at("alpha", t)
        h = clock(process, s) - clock(process, t)
        return process.at("sigma", s) / process.at("sigma", t) * math.exp(-(self.eta**2) * h)

    def deviation(self, process: Process, t: float, s: float) -> float:
        """The standard deviation of the noise that the step from t to s adds."""
        h = clock(process, s) - clock(process, t)
        share = -math.expm1(-2 * self.eta**2 * h) if self.prediction == "x0" else self.eta**2 * math.expm1(2 * h)
        return process.at("sigma", s) * math.sqrt(share)

    # --- the ends of time ---

    @property
    def plain(self) -> bool:
        """Whether steps at the ends of time are DDIM's, as published, or right for normal data."""
        return self.order == 1 or self.rule == "published"

    def end(self, model: Model, t: float, s: float) -> tuple[float, float, str]:
        """The weights of x_t and of a prediction, and which, in a step to the data or at α = 0: docs/theory, eq. 21."""
        process, spread = model.process, 0.0 if self.plain else data_scale(model)
        alpha, sigma, here = process.at("alpha", s), process.at("sigma", s), process.at("alpha", t)
        level = math.hypot(alpha * spread, sigma)
        if here == 0.0:
            return level / process.at("sigma", t), alpha, "x0"
        rho = ratio(process, t)
        far = math.hypot(spread, rho)
        q = alpha * rho * spread / (spread + far) if sigma == 0.0 else sigma * far / rho
        if self.prediction == "noise":
            return alpha / here, q - alpha * rho, "noise"
        return q / (here * rho), alpha - q / rho, "x0"

    def leave(self, model: Model, x: Tensor, s: float) -> Tensor:
        """The step that leaves the data, in `encode`."""
        if not self.plain:
            return from_data(model, x, s)
        alpha, sigma = model.process.at("alpha", s), model.process.at("sigma", s)
        return alpha * x + sigma * model.estimate(0.0, 1.0, alpha * x, s)

    # --- the step ---

    def step(self, model: Model, x: Tensor, t: float, s: float, memory: Any, randn: Draw) -> tuple[Tensor, Any]:
        process = model.process
        if process.at("sigma", t) == 0.0:
            return self.leave(model, x, s), None
        base, start, history = memory or (None, 0.0, ())
        ends = process.at("alpha", t) == 0.0 or math.isinf(clock(process, s))
        gain, factor, prediction = self.end(model, t, s) if ends else (0.0, 0.0, self.prediction)
        history = (*history, ask(model, prediction, x, t))[-max(self.order, self.corrector, 2) :]
        if base is not None:
            known = history[-self.corrected(len(history)) :]
            x = combine(base, self.factors(process, start, t, known), known)
        if ends:
            return combine(gain * x, (factor,), history[-1:]), None
        if self.method == "singlestep" and self.order > 1:
            return self.leap(model, x, t, s, self.order, history[-1], randn)[0], None
        if self.order > 3 and len(history) == 1 and self.rule == "exact" and not self.eta:
            x, stages = self.leap(model, x, t, s, 3, history[-1], randn)
            return x, (None, 0.0, stages[::2])
        base, start, known = self.base(process, x, t, s, randn), clock(process, t), history[-self.order :]
        x = combine(base, self.factors(process, start, s, known), known)
        return x, (base if self.corrected(len(history) + 1) else None, start, history)

    def base(self, process: Process, x: Tensor, t: float, s: float, randn: Draw) -> Tensor:
        """The linear part of the step and its noise."""
        base = self.gain(process, t, s) * x
        return torch.add(base, randn(x.shape), alpha=self.deviation(process, t, s)) if self.eta else base

    def corrected(self, known: int) -> int:
        """How many of the `known` predictions, the new one among them, correct the step just made; 0: it stays.

        A first step of order 3 is corrected by the trapezoid, so that its error does not lower the order of the rest.
        """
        start = 2 if self.order > 2 and self.rule == "exact" and known == 2 else 0
        return min(max(self.corrector, start), known)

    def leap(
        self, model: Model, x: Tensor, t: float, s: float, order: int, first: Node, randn: Draw
    ) -> tuple[Tensor, list[Node]]:
        """One step by stages between t and s: x_s, and the predictions at the stages.

        With noise the one stage is s itself, reached with the step's own noise (docs/theory, eq. 22).
        """
        process, nodes = model.process, [first]
        base, start = self.base(process, x, t, s, randn), first.place
        for share in (1.0,) if self.eta else ((0.5,) if order == 2 else (1 / 3, 2 / 3)):
            m, part = s, base
            if share < 1:
                m = float(process.time(2 * (start + share * (clock(process, s) - start))))
                part = self.gain(process, t, m) * x
            nodes.append(ask(model, self.prediction, combine(part, self.factors(process, start, m, nodes), nodes), m))
        last = nodes if self.rule == "exact" else nodes[:: len(nodes) - 1]
        return combine(base, self.factors(process, start, s, last), last), nodes


@dataclass(frozen=True)
class Exponential(Stepper):
    """The exponential stepper with all its settings; the update is at the head of the module. One call a step.

    Deterministic: strong order `order`, multistep or singlestep. Order 4 costs two calls more, on its first step;
    singlestep methods take `order` calls a step. With a corrector of q predictions: order min(order + 1, q), but 3
    for order = 3 and q = 4, by the start. With η > 0: weak order 1 for order 1, else 2. Order 1 with η = 0 is DDIM;
    above order 1, steps at the ends of time are right for normal data. With η > 0 the noise prediction is stiff
    (orders 3 and 4 want h below 0.3): take "x0".

    Args:
        prediction: what is a polynomial in λ, "x0" or "noise". order: 1 to 4, how many predictions it goes through.
        eta: the dial, 0 or more: 0 is the probability flow, 1 Anderson's reverse SDE.
        method: "multistep" uses predictions of the past; "singlestep" (order 2, 3; with η > 0: 2) of its own stages.
        corrector: how many predictions, the new one among them, a corrector uses that costs no call; 0 for none.
        rule: "exact" integrals, or "published" ones, DPM-Solver's, of order 2 at most if multistep (orders 1 to 3).
        noise: "independent" increments, or those of one Brownian "path" a sample.
    Raises:
        ValueError: an order that the method or rule does not have, eta below 0, an unknown name.

    Example:
        >>> import torch
        >>> from scoresde import VP, sample, targets
        >>> from scoresde.samplers import Exponential
        >>> model, generator = targets.Gaussian([1.0], 0.25).model(VP()), torch.Generator().manual_seed(0)
        >>> x = sample(model, (4000, 1), Exponential(order=2, eta=1.0), steps=30, generator=generator)
        >>> round(float(x.mean()), 1), round(float(x.std()), 1)  # of N(1, 1/4)
        (1.0, 0.5)

    Reference: docs/theory, eq. 17-22; Hochbruck and Ostermann (2010), Exponential integrators, sec. 2.5.
    """

    prediction: Literal["x0", "noise"] = "x0"
    order: int = 3
    eta: float = 0.0
    method: Literal["multistep", "singlestep"] = "multistep"
    corrector: int = 0
    rule: Literal["exact", "published"] = "exact"
    noise: Noise = "independent"
