"""Score matching without the noise as a target: by the divergence, exactly or along random directions.

With ε̂ the model's noise estimate, s = −ε̂/σ its score and x_t ~ p_t, integration by parts turns the denoising loss into

    E ‖ε̂ − ε‖²/D  =  E [‖ε̂‖² − 2σ ∇·ε̂]/D + 1  =  σ² E [‖s‖² + 2 ∇·s]/D + 1                 (docs/theory, eq. 50)

so that both have the same gradient, and what is below needs only x_t.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.divergence import Probes
from scoresde.model import Model
from scoresde.prediction import limit
from scoresde.process.base import spread
from scoresde.training.times import Times, draw


def implicit_loss(
    model: Model,
    x0: Tensor,
    t: Any = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    times: Times = "noise_level",
    **cond: Any,
) -> Tensor:
    """σ² (‖s‖² + 2 ∇·s)/D at x_t, s the model's score: `loss(…, weighting="simple")` − 1 in the mean over the noise.

    Twice Hyvärinen's ½‖s‖² + ∇·s, times σ². The divergence is exact: D derivatives of the network a call.

    Args:
        model: in any prediction. x0: (B, *), data. t: () or (B,), drawn if None, with noise in x_t.
        noise: (B, *), drawn if None.
        generator: the source of both. times: the law of times. cond: handed to the network.
    Returns:
        (B,), to be averaged and minimised; negative where the model is right.
    Raises:
        ValueError, TypeError: as `loss`; t where σ = 0, or where the prediction does not determine the noise.

    Example:
        >>> import torch
        >>> from scoresde import VP, targets
        >>> model, zero = targets.Gaussian([0.0], 1.0).model(VP()), torch.zeros(1, 1)  # s = −x at every time
        >>> value = implicit_loss(model, zero, 0.5, zero)
        >>> torch.allclose(value, -2 * VP().sigma(torch.tensor([0.5])) ** 2)
        True

    Reference: Hyvärinen (2005); docs/theory, eq. 50.
    """
    return _loss(model, x0, t, noise, generator, times, cond, None)


def sliced_loss(
    model: Model,
    x0: Tensor,
    t: Any = None,
    noise: Tensor | None = None,
    generator: torch.Generator | None = None,
    *,
    projections: int = 1,
    times: Times = "noise_level",
    **cond: Any,
) -> Tensor:
    """σ² (‖s‖² + 2 vᵀ∇s v)/D at x_t, with `projections` random sign vectors v a sample: `implicit_loss` in the mean.

    Args:
        projections: how many derivatives a sample, averaged.
        model, x0, t, noise, generator, times, cond: as `implicit_loss`.
    Returns:
        (B,), to be averaged and minimised.
    Raises:
        ValueError, TypeError: as `implicit_loss`; projections below 1.

    Example:
        >>> import torch
        >>> from scoresde import VP, targets, training
        >>> model = targets.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.1).model(VP())
        >>> x0, noise = torch.randn(2, 16, 1)
        >>> sliced = training.sliced_loss(model, x0, 0.5, noise)
        >>> torch.allclose(sliced, training.implicit_loss(model, x0, 0.5, noise), atol=1e-4)  # one direction is all
        True

    Reference: Song et al. (2019), arXiv 1905.07088, sec. 3 (SSM-VR); docs/theory, eq. 50.
    """
    return _loss(model, x0, t, noise, generator, times, cond, _checks.count("projections", projections))


def _loss(
    model: Model, x0: Tensor, t: Any, noise: Tensor | None, generator: torch.Generator | None, times: Times,
    cond: dict[str, Any], projections: int | None,
) -> Tensor:  # fmt: skip
    _checks.kind("model", model, Model, "Model(net, VP())")
    _checks.state("x0", x0)
    process, weight = model.process, None
    if t is None:
        t, weight = draw(times, process, len(x0), generator, x0.device)
    t = process.times_of(t, x0)
    sigma = process.sigma(limit(t)).to(x0.device)
    if not bool((sigma > 1e-100).all()):
        raise ValueError("t: score matching needs noise in x_t, but σ = 0 at one of the times; keep t above 0")
    x, _ = process.perturb(x0, t, noise, generator)
    dim = x[:1].numel()

    def field(z: Tensor) -> Tensor:
        return model.predict("noise", z.reshape(x.shape), t, **cond).reshape(z.shape)

    kind = "exact" if projections is None else "hutchinson"
    probes = Probes.draw(kind, projections or 1, x, generator)
    estimate, divergence = probes.of(field, x.flatten(1))
    value = (estimate.square().sum(1) - 2 * spread(sigma, divergence[:, 0]) * divergence.mean(1)) / dim
    if weight is not None:
        value = value * weight.to(value)
    return _checks.finite_result("the loss", value)
