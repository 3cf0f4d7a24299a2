"""Times that learn from the losses where to look."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.process import Process
from scoresde.training.times import Function, Times, inverse_density, law_of, quantile, uniforms


class LossAware:
    """Draws noise levels in proportion to √E[L²], which makes the gradient's variance least if it goes with the loss.

    The base law is cut into bins of equal probability, each with a running mean of L². Weights make the objective
    that of the base law. Until every bin has had `warm_up` losses, times are the base law's.

    Args:
        times: the base law, a name in TIMES or a function (process, u) -> t. bins: how many.
        uniform: the share of draws by the base law, in (0, 1]: no weight exceeds one over it.
        memory: of the running means, how much of a loss is left after another, in [0, 1). warm_up: losses a bin.
    Raises:
        ValueError, TypeError: an unknown law, bins or warm_up below 1, uniform outside (0, 1], memory outside [0, 1).

    Example:
        >>> import torch
        >>> from scoresde import VP
        >>> times = LossAware(bins=10, warm_up=1)
        >>> t, weight = times.draw(VP(), 100)
        >>> times.update(t, torch.where(t > 0.5, 3.0, 1.0))
        >>> t, weight = times.draw(VP(), 1000)
        >>> bool(weight[t > 0.7].max() < 1 < weight[t < 0.1].min())
        True

    Reference: Nichol and Dhariwal (2021), arXiv 2102.09672, sec. 3.3; docs/theory, eq. 48.
    """

    def __init__(
        self,
        times: Times = "noise_level",
        bins: int = 64,
        uniform: float = 0.1,
        memory: float = 0.99,
        warm_up: int = 10,
    ) -> None:
        self.times: Function = law_of(times)
        self.bins = _checks.count("bins", bins)
        if _checks.number("uniform", uniform, 0.0, 1.0) == 0:
            raise ValueError("uniform must be above 0: a bin that is never drawn is never corrected")
        self.uniform, self.memory = uniform, _checks.number("memory", memory, 0.0, 1.0 - 1e-12)
        self.warm_up = _checks.count("warm_up", warm_up)
        self.square = torch.zeros(self.bins, dtype=torch.float64)
        self.count = torch.zeros(self.bins, dtype=torch.float64)
        self._drawn: tuple[Process, bool] | None = None

    def shares(self) -> Tensor:
        """The probability of each bin: (bins,)."""
        root = self.square.sqrt() + 1e-100
        learnt = self.uniform / self.bins + (1 - self.uniform) * root / root.sum()
        return torch.where((self.count >= self.warm_up).all(), learnt, 1 / self.bins)

    def draw(
        self,
        process: Process,
        n: int,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        low_discrepancy: bool = True,
        integral: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Times (n,) and weights (n,); with `integral` the weights are divided by the base law's density."""
        _checks.kind("process", process, Process, "VP()")
        v = uniforms(_checks.count("n", n, 0), generator, device, low_discrepancy)
        self._move(v.device)
        self._drawn = (process, integral)
        shares = self.shares()
        ends = shares.cumsum(0)
        k = torch.searchsorted(ends, v * ends[-1], right=True).clamp_max(self.bins - 1)
        within = 1 + (v * ends[-1] - ends[k]) / shares[k]
        t = quantile(self.times, process, (k + within.clamp(0.0, 1 - 2**-30)) / self.bins)
        weight = 1 / (self.bins * shares[k])
        return t, weight * inverse_density(process, t, self.times) if integral else weight

    @torch.no_grad()
    def update(self, t: Tensor, loss: Tensor) -> None:
        """Learn from the losses at times t: (n,), as `loss` returned them there, not multiplied by weights: (n,).

        Where training is spread over processes, call it with the times and losses of all, so that they stay equal.
        """
        if self._drawn is None:
            raise ValueError("update needs times that were drawn; call draw(process, n) first")
        _checks.shape_like("loss", _checks.floating("loss", loss), _checks.floating("t", t), "t")
        process, integral = self._drawn
        t, loss = t.detach().double(), loss.detach().double().to(t.device)
        self._move(t.device)
        if integral:
            loss = loss * inverse_density(process, t, self.times)
        inner = torch.arange(1, self.bins, device=t.device, dtype=torch.float64) / self.bins
        k = torch.bucketize(t, quantile(self.times, process, inner), right=True)
        member = (k == torch.arange(self.bins, device=t.device)[:, None]).double()  # sums in one order on any device
        count = member.sum(1)
        mean = member @ loss.square() / count.clamp_min(1.0)
        share = torch.maximum(1 - self.memory**count, count / (self.count + count).clamp_min(1.0))
        self.square = self.square + share * (mean - self.square)
        self.count = self.count + count

    def state_dict(self) -> dict[str, Tensor]:
        """What was learnt: two tensors (bins,)."""
        return {"square": self.square.clone(), "count": self.count.clone()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from a `state_dict()`."""
        for name in ("square", "count"):
            value = state.get(name) if isinstance(state, dict) else None
            if not isinstance(value, Tensor) or value.shape != (self.bins,):
                raise ValueError(
                    f"state must hold {name!r} of shape ({self.bins},), as state_dict() of {self.bins} bins"
                )
            if not bool((torch.isfinite(value) & (value >= 0)).all()):
                raise ValueError(f"state: {name!r} must be finite and at least 0")
        self.square, self.count = state["square"].double().clone(), state["count"].double().clone()

    def _move(self, device: Any) -> None:
        self.square, self.count = self.square.to(device), self.count.to(device)
