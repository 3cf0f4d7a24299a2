"""Networks with other conventions, as they are."""

from __future__ import annotations

from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor

from scoresde.networks import _checks
from scoresde.networks.elementary import differentiable
from scoresde.networks.recorded import Recorded

FURTHEST = 40.0
"""Log-SNR is handed on within ±40 (σ/α of 2e-9 to 5e8): it is infinite where there is no noise, or no data."""


def _index(process: Any, t: Tensor) -> Tensor:
    position = getattr(process, "steps", 1000) * (t.double() if t.device.type != "mps" else t) / process.t_max
    whole = position.round()
    near = (position - whole).abs() <= position * torch.finfo(t.dtype).eps  # as near as t's dtype can tell
    return (torch.where(near, whole, position) - 1).clamp_min(0)


def _step(process: Any, t: Tensor) -> Tensor:
    return process.index(t) if hasattr(process, "index") else _index(process, t).round().long()


def _logsnr(process: Any, t: Tensor) -> Tensor:
    return process.logsnr(t).clamp(-FURTHEST, FURTHEST)


TIMES: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "t": lambda process, t: t,
    "index": _index,
    "step": _step,
    "sigma": lambda process, t: process.sigma(t),
    "logsnr": _logsnr,
    "log_sigma": lambda process, t: _logsnr(process, t) / -2,
    "c_noise": lambda process, t: _logsnr(process, t) / -8,
}
"""Name → the number for (process, t) that a network takes for the time. Your own is one line:
TIMES["thousandths"] = lambda process, t: 1000 * t."""


class Adapter(Recorded):
    """A network of another convention as a net (x, t, **cond).

    It is called as net(x, time, **cond), and may answer with a tensor, a tuple that begins with one, or an object with
    a field `sample`. Of twice as many channels as x has, the second half (a learned variance) is dropped.

    Args:
        net: any module or function. process: the one that it was trained on.
        time: what it takes for the time, (B,):
            "t": the process's own time;
            "index": the place T t/t_max − 1 in a chain of T steps, at least 0: `ddpm()`'s index, whole at the chain's
            own times and a fraction between, which networks with sinusoidal embeddings take; T is process.steps, or
            1000 where there is no chain;
            "step": the nearest whole index, int64, for networks with a table of steps;
            "sigma": σ, as score_sde's networks on VE; "logsnr": log α²/σ²; "log_sigma": log σ/α, the logarithm of EDM's
            noise level; "c_noise": ¼ log σ/α, as in EDM's table 1; or a name that you added to `TIMES`.
        label: the keyword for class labels ("class_labels" in diffusers); None: conditions are handed on as they are.
        null: the label that stands for no condition: negative labels, and labels left out, become it.
    Raises:
        ValueError: an unknown time, null without label; in a call, a negative label without null, or no such label.
        TypeError: process is none; in a call, an answer that is no tensor.

    Inside `Scaled` or `Preconditioned`, which hand on the place of t in [0, 1], write time="t". diffusers' networks
    work as they are: Adapter(UNet2DModel(...), ddpm(), time="index"), and for DiTTransformer2DModel also
    label="class_labels", null=1000. Log-likelihoods and their gradients work too: for the time of a derivative, fused
    attention and norms, which lack some, give way to elementary operations.

    Example:
        >>> import torch
        >>> from scoresde import ddpm
        >>> net = Adapter(lambda x, k: k[:, None] * x, ddpm(), time="index")
        >>> net(torch.ones(2, 1), torch.tensor([0.001, 1.0]))
        tensor([[  0.],
                [999.]])

    Reference: Ho et al. (2020), arXiv 2006.11239 (index); Kingma et al. (2021), 2107.00630 (log-SNR); Karras et al.
    (2022), 2206.00364, table 1 (c_noise).
    """

    def __init__(
        self, net: Any, process: Any, time: str = "t", label: str | None = None, null: int | None = None
    ) -> None:
        super().__init__()
        if not callable(net):
            raise TypeError(f"net must be callable as net(x, time), got {net!r}")
        if not isinstance(time, str) or time not in TIMES:
            close = get_close_matches(str(time), TIMES, n=1, cutoff=0.4)
            hint = f" Did you mean {close[0]!r}?" if close else ""
            raise ValueError(f"unknown time {time!r}; known: {', '.join(TIMES)}.{hint}")
        if label is not None and not isinstance(label, str):
            raise TypeError(f"label must be the keyword of the labels, such as 'class_labels', got {label!r}")
        if label is None and null is not None:
            raise ValueError(f'null={null} needs the keyword of the labels; write label="class_labels"')
        if null is not None:
            _checks.whole(0, null=null)
        self.net, self.process = net, _checks.process(process, "logsnr", "t_max")
        self.time, self.label, self.null = time, label, null

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        time = TIMES[self.time](self.process, t)
        with differentiable(x, t):
            answer = self.net(x, time.to(t.dtype) if time.is_floating_point() else time, **self._conditions(t, cond))
        y = answer if isinstance(answer, Tensor) else getattr(answer, "sample", answer)
        y = y[0] if isinstance(y, (tuple, list)) and y else y
        if not isinstance(y, Tensor):
            raise TypeError(f"net must answer with a tensor, a tuple of one, or .sample, got {type(y).__name__}")
        if x.ndim > 1 and y.shape == (len(x), 2 * x.shape[1], *x.shape[2:]):
            y = y[:, : x.shape[1]]
        return y.to(x.dtype)

    def _conditions(self, t: Tensor, cond: dict[str, Any]) -> dict[str, Any]:
        """The conditions by the network's own names, and its own label for none."""
        if self.label is None:
            return cond
        given, rest = cond.get("label"), {name: value for name, value in cond.items() if name != "label"}
        if given is None:
            none = {} if self.null is None else {self.label: torch.full_like(t, self.null, dtype=torch.int64)}
            return {**rest, **none}
        label = _checks.label(given, len(t))
        if self.null is not None:
            label = torch.where(label < 0, self.null, label)
        elif _checks.readable(label) and bool((label < 0).any()):
            raise ValueError("label has negative entries (no condition), for which this Adapter has no null")
        return {**rest, self.label: label}
