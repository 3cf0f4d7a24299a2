"""Guidance by a classifier of noisy data, and training one."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import _checks
from scoresde.guidance.weight import Weight, at, checked, times
from scoresde.model import Guide, Model
from scoresde.networks import Classifier, Scaled
from scoresde.prediction import limit, row
from scoresde.process.base import NEGLIGIBLE, Process, spread
from scoresde.training import draw_times


def classifier(model: Model, net: Callable[[Tensor, Tensor], Tensor], label: Any, weight: Weight = 1.0) -> Model:
    """Classifier guidance: the score plus w ∇log p_t(label | x), of a classifier of noisy data.

    With an unconditional model, w = 1 is the conditional law, and w = 0 the model as it is.

    Args:
        net: (x, t) -> logits (B, classes), of x: (B, *) noised by the model's process to t: (B,); as from
            `fit_classifier`. label: a whole number, () or (B,). weight: a number, (B,), or a function of t.
    Raises:
        ValueError, TypeError: an argument that does not fit; a label that is not one of the classes.

    Example:
        >>> import torch
        >>> from scoresde import VP, guidance, sample, targets
        >>> classes = targets.Labelled(targets.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.1), [0, 1])
        >>> guided = guidance.classifier(classes.model(VP()), classes.classifier(VP()), torch.tensor([0, 1, 1]))
        >>> sample(guided, (3, 1), seeds=range(3)).sign().flatten().tolist()
        [-1.0, 1.0, 1.0]

    Reference: Song et al. (2021), arXiv 2011.13456, eq. 14; Dhariwal and Nichol (2021), 2105.05233, sec. 4.
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    if not callable(net):
        raise TypeError(f"net must be callable as net(x, t) -> logits (B, classes), got {net!r}")
    label = _checks.whole_numbers("label", label)
    if label.ndim > 1:
        raise TypeError(f"label must be of whole numbers, () or (B,), got {label.dtype} of shape {tuple(label.shape)}")
    if label.numel() and int(label.min()) < 0:
        raise ValueError(f"label must be of classes from 0, got {int(label.min())}")
    weight = checked(weight)
    latest = float(model.process.time(2 * math.log(NEGLIGIBLE)))  # where α is not yet negligible beside σ
    guide = _ByClassifier(net, int(label.max()) if label.numel() else 0, weight, latest)
    return guide.filled(model, label=label.long(), **({"weight": weight} if isinstance(weight, Tensor) else {}))


class _ByClassifier(Guide):
    """y − w σ (b − aσ/α) ∇log p_t(label | x): what the score gains, in the model's own row (a, b).

    Beyond σ/α = 1000 the gradient is proportional to α/σ² at equal x/σ, and is asked at 1000.
    """

    def __init__(self, net: Callable[[Tensor, Tensor], Tensor], highest: int, weight: Any, latest: float) -> None:
        super().__init__()
        self.classifier, self.highest, self.latest = net, highest, latest
        self.weight = None if isinstance(weight, Tensor) else weight

    def forward(self, model: Model, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        label, process = self.own(cond, "label"), model.process
        w = at(self.own(cond, "weight") if self.weight is None else self.weight, x, t)
        y = model(x, t, **cond)
        if isinstance(w, float) and w == 0.0:
            return y
        here, there = limit(t), limit(t).clamp_max(self.latest)
        (alpha, sigma), (alpha2, sigma2) = ((process.alpha(s), process.sigma(s)) for s in (here, there))
        a, b = (torch.as_tensor(c, dtype=here.dtype, device=x.device) for c in row(model.prediction, process, here))
        gain = sigma2 * (a * sigma2 / alpha2 - b * (alpha * sigma2) / (sigma * alpha2))
        scaled = spread(torch.hypot(alpha2, sigma2) / torch.hypot(alpha, sigma), x) * x
        gradient = self._gradient(scaled, there.to(x.dtype), label.to(x.device))
        return y + times(w, x) * spread(gain.expand_as(here), x) * gradient

    def _gradient(self, x: Tensor, t: Tensor, label: Tensor) -> Tensor:
        """∇ₓ log p_t(label | x)."""

        def log_likelihood(x: Tensor) -> Tensor:
            logits = self.classifier(x, t)
            if logits.ndim != 2 or len(logits) != len(x):
                raise ValueError(f"net must return logits ({len(x)}, classes), got {tuple(logits.shape)}")
            if self.highest >= logits.shape[1]:
                raise ValueError(f"label must be below {logits.shape[1]}, the number of classes, got {self.highest}")
            if label.shape not in ((), (len(x),)):
                raise ValueError(f"label must have shape () or ({len(x)},), got {tuple(label.shape)}")
            return logits.log_softmax(1).gather(1, label.expand(len(x))[:, None]).sum()

        return torch.func.grad(log_likelihood)(x)


def fit_classifier(
    process: Process,
    x: Tensor,
    labels: Tensor,
    steps: int = 1000,
    *,
    net: nn.Module | None = None,
    width: int = 128,
    batch_size: int = 256,
    lr: float = 1e-3,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """Train a classifier of noisy data, p_t(label | x_t), by cross entropy at times equal in noise level.

    Guidance uses its gradient, of which a low cross entropy says little where classes are far apart.

    Args:
        process: that noises x. x: (N, *), data. labels: (N,) int64, from 0.
        steps, batch_size, lr: of Adam, the rate falling from lr to zero as a cosine. width: of the net's blocks.
        net: (x, t) -> logits (B, classes); `networks.Classifier` of three blocks of `width`, scaled to the process and
            the data, if None. generator: the source of batches, times, noise and the net's weights.
    Returns:
        The net, for `classifier`, with its parameters fixed.
    Raises:
        ValueError, TypeError: data and labels that do not fit, a loss that is not finite.

    Example:
        >>> import torch
        >>> from scoresde import VP, guidance
        >>> x, labels = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
        >>> guidance.fit_classifier(VP(), x, labels, steps=2)(x, torch.tensor([0.1, 0.1])).shape
        torch.Size([2, 2])

    Reference: Dhariwal and Nichol (2021), arXiv 2105.05233, sec. 4.
    """
    _checks.kind("process", process, Process, "VP()")
    if not len(_checks.state("x", x)):
        raise ValueError("x must hold at least one row, got none")
    if not isinstance(labels, Tensor) or labels.dtype != torch.int64 or labels.shape != x.shape[:1]:
        got = f"{labels.dtype} {tuple(labels.shape)}" if isinstance(labels, Tensor) else type(labels).__name__
        raise ValueError(f"labels must be int64 of shape ({len(x)},), one for each row of x, got {got}")
    if int(labels.min()) < 0:
        raise ValueError(f"labels must be classes from 0, got {int(labels.min())}")
    steps, batch_size = _checks.count("steps", steps), _checks.count("batch_size", batch_size)
    _checks.positive("lr", lr)
    source = _checks.device_of(generator, x.device)
    if net is None:
        net = _fresh(process, x, int(labels.max()) + 1, width, generator).to(x)
    if not (weights := [p for p in _checks.kind("net", net, nn.Module, "nn.Linear").parameters() if p.requires_grad]):
        raise ValueError("net has no parameters to train")
    optimizer = torch.optim.Adam(weights, lr=lr, fused=True)
    net.train()
    for step in range(steps):
        rows = torch.randint(len(x), (batch_size,), generator=generator, device=source).to(x.device)
        t = draw_times(process, batch_size, generator).to(x.device)
        noisy, _ = process.perturb(x[rows], t, generator=generator)
        logits = net(noisy, t.to(x.dtype))
        if logits.ndim != 2 or logits.shape[1] <= int(labels.max()):
            raise ValueError(
                f"net must return logits (B, classes) for labels up to {int(labels.max())}, got {tuple(logits.shape)}"
            )
        loss = nn.functional.cross_entropy(logits, labels[rows])
        if not math.isfinite(float(loss.detach())):
            raise ValueError(f"the loss is not finite at step {step + 1}; lower lr from {lr:g}")
        for group in optimizer.param_groups:
            group["lr"] = lr * (0.5 + 0.5 * math.cos(math.pi * step / steps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return net.eval().requires_grad_(False)


def _fresh(process: Process, x: Tensor, classes: int, width: int, generator: torch.Generator | None) -> nn.Module:
    """A classifier whose weights are drawn from `generator`; the global state is left alone if there is one."""
    scale = float(x.std(correction=0)) or 1.0
    with torch.random.fork_rng(devices=[], enabled=generator is not None):
        if generator is not None:
            torch.manual_seed(int(torch.randint(2**31, (), generator=generator, device=generator.device)))
        return Scaled(Classifier(tuple(x.shape[1:]), classes, _checks.count("width", width)), process, scale)
