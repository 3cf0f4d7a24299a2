"""A model: a network, the process it was trained on, and the name of what it predicts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import _checks
from scoresde.prediction import Prediction, known, limit, row, solve_rows, weights
from scoresde.process.base import Process, spread
from scoresde.scaling import Scaling


@dataclass(frozen=True)
class Model:
    """A network with the process and the prediction that give its output a meaning.

    Args:
        net: any callable (x, t, **cond) -> y with x, y: (B, *) and t: (B,) in x's dtype.
        process: the forward process it was trained on.
        prediction: "x0", "noise", "score", "v", "velocity", or a row function (process, t) -> (a, b).
        moments: the data's (mean, standard deviation), each of a shape that broadcasts to one sample, or
            (mean, covariance) of the flattened sample, shapes (D,) or the sample's, and (D, D); None stands for
            (0, 1). Samplers and likelihoods solve the Gaussian with these moments exactly.
        scaling: how raw data became x, kept for whoever wants raw samples: model.scaling.inverse(x).
    Raises:
        TypeError, ValueError: net not callable, process not a Process, an unknown prediction.

    Example:
        >>> import torch
        >>> from scoresde import VP
        >>> model = Model(lambda x, t: torch.zeros_like(x), VP(), "noise")
        >>> x = torch.ones(2, 3)
        >>> torch.allclose(model.predict("x0", x, 0.5), x / VP().alpha(0.5))  # it finds no noise in x = α x₀ + σ ε
        True
    """

    net: Callable[..., Tensor]
    process: Process
    prediction: Prediction = "noise"
    moments: tuple[Any, Any] | None = None
    scaling: Scaling | None = None

    def __post_init__(self) -> None:
        if not callable(self.net):
            raise TypeError(f"net must be callable as net(x, t), got {self.net!r}")
        _checks.kind("process", self.process, Process, "VP()")
        row(self.prediction, self.process, torch.tensor(0.5 * self.process.t_max, dtype=torch.float64))
        if self.moments is not None:
            _check_moments(self.moments)
        if self.scaling is not None:
            _checks.kind("scaling", self.scaling, Scaling, "Scaling.of_levels(256)")

    def __call__(self, x: Tensor, t: Any, **cond: Any) -> Tensor:
        """The network's own output at x: (B, *) and t: () or (B,); its shape and dtype must be those of x."""
        _checks.floating("x", x)
        if x.ndim < 1:
            raise ValueError("x must have shape (B, *), got a tensor without dimensions; write x[None]")
        if not isinstance(t, Tensor):
            times = torch.full((x.shape[0],), float(self.process.times_of(t, x)), dtype=x.dtype, device=x.device)
        elif _checks.floating("t", t).is_meta and not x.is_meta:
            raise TypeError("t must have values, got a tensor on the meta device")
        elif t.shape in ((), x.shape[:1]):
            times = t.to(x.device, x.dtype).expand(x.shape[0])
        else:
            raise ValueError(
                f"t must have shape () or ({x.shape[0]},) for x of shape {tuple(x.shape)}, got {tuple(t.shape)}"
            )
        try:
            y = self.net(x, times, **cond)
        except TypeError as error:
            if "required" in str(error) and "argument" in str(error):
                raise TypeError(f"net wants a condition: {error}; write model.given(name=value)") from error
            raise
        _checks.shape_like("the output of net", y, x)
        if y.dtype != x.dtype:
            raise TypeError(f"the output of net must have the dtype of x, {x.dtype}, got {y.dtype}")
        return y

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
        u, w = (spread(c, x) for c in weights(self.process, t, self.prediction, known(prediction)))
        return _checks.finite_result(f"the prediction {prediction!r}", u * x + w * self(x, t, **cond))

    def estimate(self, p: float, q: float, x: Tensor, t: float, **cond: Any) -> Tensor:
        """E[p x₀ + q ε | x_t = x] by one call: the row (p, q) of any two numbers.

        The inner loop of every sampler: t is a number, and nothing is checked on the device.
        """
        u, w = weights(self.process, t, self.prediction, (p, q))
        return torch.add(u * x, self(x, t, **cond), alpha=w)  # pyright: ignore[reportArgumentType]

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
        if not callable(function):
            raise TypeError(f"function must be callable as function(model, x, t, **cond), got {function!r}")
        return replace(self, net=_Wrapped(function, self))

    def on(self, process: Process) -> Model:
        """The same network sampled along another process: its x₀ estimate at equal SNR is the same.

        x is rescaled and t moved to where this model's own process has the SNR; beyond the SNRs that it
        reaches, its nearest end answers.

        Reference: Karras et al. (2022), arXiv 2206.00364, sec. 4 and table 1; docs/theory, eq. 5.
        """
        _checks.kind("process", process, Process, "VP()")
        return replace(self, net=_On(self, process), process=process)

    def like(self) -> Tensor:
        """An empty tensor with the network's device and floating dtype (the CPU and the default, if it has none)."""
        if isinstance(self.net, nn.Module):
            for tensor in (*self.net.parameters(), *self.net.buffers()):
                if tensor.is_floating_point():
                    return tensor.new_empty(0)
        return torch.empty(0)


def is_covariance(mean: Tensor, second: Tensor) -> bool:
    """Whether moments give a covariance (D, D), for a mean of D numbers, or a standard deviation."""
    dim = mean.numel()
    return second.shape == (dim, dim) and (dim > 1 or mean.ndim == 1)


def _check_moments(moments: Any) -> None:
    if not isinstance(moments, (tuple, list)) or len(moments) != 2:
        raise TypeError(f"moments must be (mean, standard deviation or covariance), got {moments!r}")
    mean, second = (_checks.table("moments", m).double() for m in moments)
    if not bool(torch.isfinite(mean).all()) or not bool(torch.isfinite(second).all()):
        raise ValueError("moments must be finite")
    if is_covariance(mean, second):
        if not torch.allclose(second, second.mT, rtol=1e-4, atol=1e-9 * float(second.abs().max())):
            raise ValueError("moments: the covariance must be symmetric")
        if not bool((second.diagonal() >= 0).all() & (second.diagonal() > 0).any()):
            raise ValueError("moments: the covariance must have variances of at least 0, and one above it")
    elif not bool((second >= 0).all() & (second > 0).any()):
        raise ValueError("moments: standard deviations must be at least 0, and one above it")


class Count:
    """Counts network calls: with count = Count(), model.wrap(count) is the model, and count.calls the calls so far.

    Example:
        >>> import torch
        >>> from scoresde import VP, Count, sample, samplers, targets
        >>> count = Count()
        >>> model = targets.Gaussian([0.0], 1.0).model(VP()).wrap(count)
        >>> x = sample(model, (5, 1), samplers.DDIM(), steps=10)
        >>> count.calls
        10
    """

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, model: Model, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        self.calls += 1
        return model.net(x, t, **cond)  # the counting model has checked x and t, and will check the output


def determines(model: Model, prediction: Prediction) -> bool:
    """Whether the model's own prediction determines another at t_max."""
    try:
        weights(model.process, model.process.t_max, model.prediction, prediction)
    except ValueError:
        return False
    return True


def conditions(model: Model) -> dict[str, Any]:
    """The conditions that `given` filled in."""
    found: dict[str, Any] = {}
    for function in _functions(model):
        if isinstance(function, _Given):
            found = {**function.cond, **found}
    return found


def is_conditioned(model: Model) -> bool:
    """Whether conditions that may belong to single samples were filled in by `given`."""
    return any(isinstance(c, Tensor) and c.ndim for c in conditions(model).values())


def is_changed(model: Model) -> bool:
    """Whether conditions or guidance make its law another than the one its moments are of."""
    return any(isinstance(function, (_Given, Guide)) for function in _functions(model))


def _functions(model: Model) -> Iterator[Any]:
    """What the model was wrapped in, the outermost first."""
    net = model.net
    while isinstance(net, _Wrapped):
        yield net.function
        net = net.model.net


class Guide(nn.Module):
    """A function for `wrap` that changes the model's law; modules that it holds are part of the model.

    What belongs to single samples, as the label for a classifier, reaches it as a condition of its own, by `filled`:
    then it follows its samples wherever conditions do. Its own are the names that begin with `mark`, which says how
    many guides the model had before.
    """

    mark: str

    def filled(self, model: Model, **own: Any) -> Model:
        """The model guided by this, with its own conditions filled in."""
        self.mark = f"{MARK}{sum(isinstance(function, Guide) for function in _functions(model))} "
        guided = model.wrap(self)
        return guided.given(**{self.mark + name: value for name, value in own.items()}) if own else guided

    def own(self, cond: dict[str, Any], name: str) -> Any:
        """One of its own conditions, taken out of `cond`."""
        return cond.pop(self.mark + name)


MARK = "guide "
"""How the names of guides' own conditions begin; no network has an argument of such a name."""


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
