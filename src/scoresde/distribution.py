"""A model as a torch.distributions.Distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from inspect import signature
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, constraints

from scoresde import _checks
from scoresde.flow import Flow
from scoresde.likelihood import log_prob
from scoresde.model import Model, is_changed, is_covariance
from scoresde.process.base import randn
from scoresde.samplers import Adams, Sampler, sample


def distribution(
    model: Model,
    event_shape: int | Sequence[int],
    *,
    sampler: Sampler = Adams(),  # noqa: B008  (frozen)
    sample_steps: int = 20,
    steps: int = 40,
    generator: torch.Generator | None = None,
    validate_args: bool | None = None,
    **options: Any,
) -> ModelDistribution:
    """The model as a torch.distributions.Distribution: sample, rsample, log_prob.

    Args:
        model: whose network takes (B, *event_shape).
        event_shape: of one sample: D, or a tuple; () for numbers.
        sampler, sample_steps: as in `scoresde.sample`. steps, options: as in `scoresde.log_prob` (divergence,
            probes, tolerance, solver, gradient: by default "direct" where the network has parameters to train).
        generator: the source of samples and probes; the global one if None, as torch.distributions use it.
        validate_args: as in torch.distributions; NaN and infinite values are refused in any case.
    Returns:
        ModelDistribution, of batch_shape (); `expand` gives it another.
    Raises:
        ValueError, TypeError: an argument that does not fit; the network is asked first when used.

    Example:
        >>> import torch
        >>> from scoresde import VP, targets
        >>> target = targets.Gaussian([1.0, -1.0], 0.25)
        >>> d = distribution(target.model(VP()), 2)
        >>> x = d.sample((3,))
        >>> x.shape, torch.allclose(d.log_prob(x), target.log_prob(x), atol=1e-4), d.mean.tolist()
        (torch.Size([3, 2]), True, [1.0, -1.0])
    """
    settings = {"sampler": sampler, "sample_steps": sample_steps, "steps": steps, "generator": generator, **options}
    return ModelDistribution(model, event_shape, validate_args=validate_args, **settings)


class ModelDistribution(Distribution):
    """What `distribution` returns: independent draws of the model at every place of `batch_shape`."""

    arg_constraints: dict[str, constraints.Constraint] = {}  # noqa: RUF012  (as in torch.distributions)
    has_rsample = True

    def __init__(
        self,
        model: Model,
        event_shape: int | Sequence[int],
        *,
        sampler: Sampler = Adams(),  # noqa: B008  (frozen)
        sample_steps: int = 20,
        steps: int = 40,
        generator: torch.Generator | None = None,
        validate_args: bool | None = None,
        **options: Any,
    ) -> None:
        self.model = _checks.kind("model", model, Model, "Model(net, VP())")
        self.sampler = _checks.kind("sampler", sampler, Sampler, "Adams()")
        self.sample_steps = _checks.count("sample_steps", sample_steps)
        _checks.device_of(generator)
        if unknown := set(options) - OPTIONS:
            _checks.choice("option", min(unknown), ("sampler", "sample_steps", "steps", "generator", *sorted(OPTIONS)))
        self.options = {"steps": _checks.count("steps", steps), **options}
        self.generator = generator
        sizes = (event_shape,) if isinstance(event_shape, int) else event_shape
        if not isinstance(sizes, (tuple, list)):
            raise TypeError(f"event_shape must be D or a tuple, got {event_shape!r}")
        event = torch.Size(_checks.shape("event_shape", (0, *sizes))[1:])
        if model.moments is not None:
            Flow.of(model, torch.empty(0, *event))  # refuses moments of another shape
        super().__init__(torch.Size(), event, validate_args=validate_args)

    @property
    def support(self) -> constraints.Constraint:
        dims = len(self.event_shape)
        return constraints.independent(constraints.real, dims) if dims else constraints.real

    @property
    def mean(self) -> Tensor:
        """The data's mean, where the model knows its moments and no condition was filled in."""
        return self._placed(self._moments()[0])

    @property
    def variance(self) -> Tensor:
        """The data's variance, entry by entry, likewise."""
        mean, second = self._moments()
        return self._placed(second.diagonal() if is_covariance(mean, second) else second.square())

    @property
    def covariance_matrix(self) -> Tensor:
        """The data's covariance, (*batch_shape, D, D) of the flattened event, where the model knows it."""
        mean, second = self._moments()
        if not is_covariance(mean, second):
            raise NotImplementedError("the model's moments are standard deviations; their covariance is unknown")
        return second.to(self.model.like()).expand(*self.batch_shape, *second.shape)

    def rsample(self, sample_shape: Sequence[int] = torch.Size()) -> Tensor:
        """Draws (*sample_shape, *batch_shape, *event_shape), differentiable in the network's parameters.

        The latent is drawn first and carried to data by the sampler; `sample` is the same without gradients.
        """
        shape = self._extended_shape(torch.Size(sample_shape))
        count, like = math.prod(shape[: len(shape) - len(self.event_shape)]), self.model.like()
        z = randn((count, math.prod(self.event_shape)), self.generator, like.device, like.dtype)
        flow = Flow.of(self.model, like.new_empty(1, *self.event_shape))
        latent = flow.back(z, self.model.process.t_max).requires_grad_(torch.is_grad_enabled())
        x = sample(self.model, x=latent, sampler=self.sampler, steps=self.sample_steps, generator=self.generator)
        return x.reshape(shape)

    def log_prob(self, value: Tensor) -> Tensor:
        """Nats, of shape (*sample_shape, *batch_shape); differentiable in value and the network's parameters.

        Args:
            value: (*sample_shape, *batch_shape, *event_shape), floating.
        Raises:
            ValueError: another shape, NaN or infinite. TypeError: of integers.
        """
        _checks.floating("value", value)
        dims = len(self.event_shape)
        lead = value.shape[: value.ndim - dims]
        if value.shape[len(lead) :] != self.event_shape or value.ndim < dims:
            raise ValueError(f"value must have shape (*, {str(tuple(self.event_shape))[1:]}, got {tuple(value.shape)}")
        shape = _together("value", lead, self.batch_shape)
        rows = _checks.state("value", value.reshape(math.prod(lead), *self.event_shape))
        net, options = self.model.net, self.options
        if isinstance(net, nn.Module) and any(p.requires_grad for p in net.parameters()):
            options = {"gradient": "direct", **options}
        result = log_prob(self.model, rows, generator=self.generator, **options)
        return result.value.reshape(lead).expand(shape)

    def expand(self, batch_shape: Sequence[int], _instance: ModelDistribution | None = None) -> ModelDistribution:
        """The same distribution at every place of `batch_shape`."""
        new: Any = self._get_checked_instance(ModelDistribution, _instance)
        new.__dict__.update(self.__dict__)
        new._batch_shape = _together("batch_shape", torch.Size(batch_shape), self.batch_shape)
        return new

    def __repr__(self) -> str:
        batch = f", batch_shape={tuple(self.batch_shape)}" if self.batch_shape else ""
        return f"ModelDistribution({self.model.process!r}, event_shape={tuple(self.event_shape)}{batch})"

    def _moments(self) -> tuple[Tensor, Tensor]:
        if self.model.moments is None or is_changed(self.model):
            raise NotImplementedError(
                "the mean and variance are known only where model.moments are, and no condition was filled in; "
                "estimate them by sample((n,))"
            )
        mean, second = (torch.as_tensor(m) for m in self.model.moments)
        return mean.double(), second.double()

    def _placed(self, value: Tensor) -> Tensor:
        """One of the moments in the shape of an event."""
        size, value = math.prod(self.event_shape), value.to(self.model.like())
        value = value.reshape(self.event_shape) if value.numel() == size else value.expand(self.event_shape)
        return value.expand(*self.batch_shape, *self.event_shape)


def _together(name: str, lead: torch.Size, batch: torch.Size) -> torch.Size:
    try:
        return torch.broadcast_shapes(lead, batch)
    except RuntimeError:
        raise ValueError(f"{name}: {tuple(lead)} does not broadcast with batch_shape {tuple(batch)}") from None


OPTIONS = set(signature(log_prob).parameters) - {"model", "x", "steps", "generator"}
"""Of `log_prob`, that are passed on as they are."""
