"""A model: a network, the process it was trained on, and the name of what it predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import _checks
from scoresde.prediction import Prediction, limit, row, solve_rows, weights
from scoresde.process.base import Process, spread


@dataclass(frozen=True)
class Model:
    """A network with the process and the prediction that give its output a meaning.

    Args:
        net: any callable (x, t, **cond) -> y with x, y: (B, *) and t: (B,) in x's dtype.
        process: the forward process it was trained on.
        prediction: "x0", "noise", "score", "v", "velocity", or a row function (process, t) -> (a, b).
        moments: the data's (mean, standard deviation), each of a shape that broadcasts to one sample, or
            (mean, covariance) of the flattened sample; None stands for (0, 1). Samplers and likelihoods
            solve the Gaussian with these moments exactly.
    Raises:
        TypeError, ValueError: net not callable, process not a Process, an unknown prediction.

    Example:
        >>> import torch
        >>> from scoresde import VP
        >>> model = Model(lambda x, t: torch.zeros_like(x), VP(), "noise")
        >>> model.predict("x0", torch.ones(2, 3), 0.5).shape
        torch.Size([2, 3])
    """

    net: Callable[..., Tensor]
    process: Process
    prediction: Prediction = "noise"
    moments: tuple[Any, Any] | None = None

    def __post_init__(self) -> None:
        if not callable(self.net):
            raise TypeError(f"net must be callable as net(x, t), got {self.net!r}")
        if not isinstance(self.process, Process):
            raise TypeError(f"process must be a Process, such as VP(), got {self.process!r}")
        row(self.prediction, self.process, torch.tensor(0.5 * self.process.t_max, dtype=torch.float64))
        if self.moments is not None and len(self.moments) != 2:
            raise ValueError(f"moments must be (mean, standard deviation or covariance), got {self.moments!r}")

    def __call__(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        """The network's own output at x: (B, *) and t: () or (B,)."""
        if isinstance(t, Tensor):
            times = t.to(x.device, x.dtype).expand(x.shape[0])
        else:
            times = torch.full((x.shape[0],), float(t), dtype=x.dtype, device=x.device)
        return self.net(x, times, **cond)

    def predict(self, prediction: Prediction, x: Tensor, t: Any, **cond: Any) -> Tensor:
        """The network's output at (x, t), converted to `prediction`.

        Args:
            x: (B, *), floating. t: () or (B,), in [0, process.t_max].
        Raises:
            ValueError: an unknown prediction, t outside the interval or of another shape, x not finite, a
                network whose output is not shaped like x or not finite, or a prediction undetermined at t.
            TypeError: x of integers.

        Reference: docs/theory, eq. 4.
        """
        _checks.state("x", x)
        t = self.process.times_of(t, x)
        u, w = (spread(c, x) for c in weights(self.process, t, self.prediction, prediction))
        y = _checks.shape_like("the output of net", self(x, t, **cond), x)
        return _checks.finite_result(f"the prediction {prediction!r} at t = {t}", u * x + w * y)

    def estimate(self, p: float, q: float, x: Tensor, t: float, **cond: Any) -> Tensor:
        """E[p x₀ + q ε | x_t = x] by one call: the row (p, q) of any two numbers.

        The inner loop of every sampler: t is a number, and nothing is checked on the device.
        """
        u, w = weights(self.process, t, self.prediction, (p, q))
        return u * x + w * self(x, t, **cond)

    def given(self, **cond: Any) -> Model:
        """This model with conditions filled in: model.given(label=y)(x, t) is model(x, t, label=y)."""
        return self.wrap(_Given(cond))

    def wrap(self, function: Callable[..., Tensor]) -> Model:
        """A model whose network is function(model, x, t, **cond), handed this model.

        It follows deepcopy, moves between devices and trains with this model's network, which a closure would not.

        Example:
            >>> import torch
            >>> from scoresde import VP
            >>> model = Model(lambda x, t: x, VP())
            >>> doubled = model.wrap(lambda model, x, t: 2 * model(x, t))
            >>> doubled(torch.ones(1, 2), 0.5)
            tensor([[2., 2.]])
        """
        return replace(self, net=_Wrapped(function, self))

    def on(self, process: Process) -> Model:
        """The same network sampled along another process: its x₀ estimate at equal SNR is the same.

        x is rescaled and t moved to where this model's own process has the SNR; beyond the SNRs that it
        reaches, its nearest end answers.

        Reference: Karras et al. (2022), arXiv 2206.00364, sec. 4 and table 1; docs/theory, eq. 5.
        """
        if not isinstance(process, Process):
            raise TypeError(f"process must be a Process, such as VP(), got {process!r}")
        return replace(self, net=_On(self, process), process=process)

    def like(self) -> Tensor:
        """An empty tensor with the network's device and floating dtype (the CPU and the default, if it has none)."""
        if isinstance(self.net, nn.Module):
            for tensor in (*self.net.parameters(), *self.net.buffers()):
                if tensor.is_floating_point():
                    return tensor.new_empty(0)
        return torch.empty(0)


class Count:
    """Counts network calls: with count = Count(), model.wrap(count) is the model, and count.calls the calls so far."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: Model, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self.calls += 1
        return model(x, t, **cond)


class _Given:
    def __init__(self, cond: dict[str, Any]) -> None:
        self.cond = cond

    def __call__(self, model: Model, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return model(x, t, **{**self.cond, **cond})


class _Wrapped(nn.Module):
    def __init__(self, function: Callable[..., Tensor], model: Model) -> None:
        super().__init__()
        self.function = function
        self.model = model
        if isinstance(model.net, nn.Module):
            self.net = model.net  # registers the parameters; deepcopy keeps it one with model.net

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return self.function(self.model, x, t, **cond)


class _On(_Wrapped):
    def __init__(self, model: Model, process: Process) -> None:
        super().__init__(_transport, model)
        self.process = process

    def forward(self, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        return _transport(self.model, self.process, x, t, **cond)


def _transport(model: Model, process: Process, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
    """The model's prediction as a row of `process`, from a call at equal SNR on its own process."""
    own, new = model.process, limit(t)
    old = limit(own.time(process.logsnr(new)))
    here, there = (process.alpha(new), process.sigma(new)), (own.alpha(old), own.sigma(old))
    scale = torch.hypot(*there) / torch.hypot(*here)
    u, w = solve_rows(there, row(model.prediction, own, old), row(model.prediction, process, new))
    x = spread(scale.expand_as(t), x) * x
    u, w = (spread(torch.as_tensor(c).expand_as(t), x) for c in (u, w))
    return u * x + w * model(x, old, **cond)
