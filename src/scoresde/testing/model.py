"""What goes wrong in a network before any sampler is to blame."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import _checks
from scoresde.model import Guide, Model, is_conditioned
from scoresde.testing.mistakes import mistake
from scoresde.testing.readings import belongs

ENOUGH = 32
"""Samples from which on it is judged what the network does, not only how it behaves."""

NUMBERS = 200_000
"""That a level of noise may have: of large samples, whose errors vary less, fewer are drawn."""

STEADY = ("LayerNorm", "GroupNorm", "RMSNorm")
"""Norms that do the same in training as in use."""


@torch.no_grad()
def check_model(model: Model, x: Tensor, draws: int = 512, **cond: Any) -> None:
    """Raise AssertionError, naming what is wrong and what to change, unless the network can serve as a model's.

    It must return finite states shaped like x in x's dtype, the same ones for the same input, for each sample
    without regard to its neighbours, and different ones at different times.

    From 32 samples on it must also remove noise from them, read as declared. Perturbed samples are denoised at five
    levels of noise, with what the network says read in every way: as each prediction, or minus it, or so many times the
    declared one; told another time (index, [0, 1], reversed, σ, log-SNR, ...); on another process; of x on another
    scale ([0, 1], [−1, 1], 0..255, standardised, that of model.moments, which `fit` stores); and, if none of these
    serves, with two of the changes. A reading that is surely better than the declared one is named, with what to write.
    If none removes noise as a trained network's would, the labels are, if others serve; or the scale of x, if it is not
    that of model.moments or the process has too little noise for it; or else the weights. A denoiser that needs no
    training, made of x, says how much there is to remove.

    Args:
        model: to be judged; if guided, which makes it another thing than a denoiser, only by how it behaves.
        x: (B, *) with B of at least 4, not all the same: data like those that the network was trained on.
        draws: how many perturbed samples, at each level; fewer of more than 400 numbers.
        cond: handed to the network; tensors (B, …) by row of x.
    Raises:
        AssertionError: what is wrong. ValueError, TypeError: arguments that do not fit, such as x of equal samples.

    Example:
        >>> import torch
        >>> from scoresde import VP, Model, targets
        >>> from scoresde.testing import check_model
        >>> check_model(Model(lambda x, t: x, VP()), torch.randn(4, 2))
        Traceback (most recent call last):
            ...
        AssertionError: the network ignores t: its output is the same at 5 noise levels
        >>> target = targets.GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], 0.1)
        >>> net, x = target.model(VP(), "v").net, target.sample(500, torch.Generator().manual_seed(0))
        >>> check_model(Model(net, VP(), "v"), x)
        >>> check_model(Model(net, VP(), "noise"), x)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        AssertionError: the network is not what is declared: it predicts v, not noise. ...
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    _checks.state("x", x)
    if x.shape[0] < 4:
        raise ValueError(f"x must hold at least four samples, got shape {tuple(x.shape)}")
    if not bool((x != x[:1]).any()):
        raise ValueError("x must differ from sample to sample, got the same one each time; write some of the data")
    if is_conditioned(model):
        raise ValueError("model has conditions of single samples filled in; write check_model(model, x, label=label)")
    draws = min(_checks.count("draws", draws, ENOUGH), max(NUMBERS // max(x[0].numel(), 1), ENOUGH))
    faults, answers = _faults(model, x, cond)
    guided = isinstance(model.net, nn.Module) and any(isinstance(module, Guide) for module in model.net.modules())
    if (not faults or not answers) and len(x) >= ENOUGH and not guided:
        found = mistake(model, x, draws, cond, answers)
        faults += [found] if found else []
    if faults:
        raise AssertionError("\n".join(faults))


def _faults(model: Model, x: Tensor, cond: dict[str, Any]) -> tuple[list[str], bool]:
    """What is wrong with how the network behaves, whatever it is for; and whether it answers at all."""
    process = model.process
    levels = torch.tensor([0.1, 0.3, 1.0, 3.0, 10.0], dtype=torch.float64)
    times = process.time(-2 * levels.log()).clamp(process.t_min, process.t_max).unique().tolist()
    try:
        outputs = [model(x, t, **cond) for t in times]
    except (TypeError, ValueError) as error:
        known = str(error).startswith("the output of net must be a torch.Tensor, got ")
        hint = "; write networks.Adapter(net, process), which takes tuples and objects with a field sample"
        return [str(error) + hint * known], False
    except (RuntimeError, IndexError) as error:
        return [f"the network cannot be called as net(x, t): {str(error).strip().splitlines()[0]}"], False
    infinite = [t for t, y in zip(times, outputs) if not bool(torch.isfinite(y).all())]
    if infinite:
        return [f"at t = {t:.3g} the output is not finite" for t in infinite], True
    slack = _slack(x, *outputs)
    two = {name: value[:2] if belongs(value, x) else value for name, value in cond.items()}
    if slack == 0.0:
        return ["the output is zero everywhere; train the network first"], True
    if not _alike([outputs[0], model(x, times[0], **cond)], slack):
        return [f"two calls with the same input differ; {_mode(model)}"], True
    if not all(_alike([model(x[:2], t, **two), y[:2]], slack) for t, y in zip(times, outputs)):
        # not asked whether it ignores t: norms over a batch remove what is the same in all of it, as t is here
        return [f"a sample's output depends on the batch around it; {_mode(model)}"], True
    if _alike(outputs, slack) and _blunt(model, (x - x.mean()) / x.std(), times, cond):  # large x drown the time
        return [f"the network ignores t: its output is the same at {len(times)} noise levels"], True
    if blind := _blind(model, x, times, cond):
        return [f"the {blind} inside ignores t, which only what is around it uses; hand the time on to it"], True
    return [], True


def _slack(x: Tensor, *outputs: Tensor) -> float:
    """What rounding makes of outputs of their size."""
    return 100 * torch.finfo(x.dtype).eps * math.sqrt(x[0].numel()) * max(float(y.abs().max()) for y in outputs)


def _alike(outputs: list[Tensor], slack: float) -> bool:
    return all(float((y - outputs[0]).abs().max()) <= slack for y in outputs[1:])


def _blunt(model: Model, x: Tensor, times: list[float], cond: dict[str, Any]) -> bool:
    """Whether it answers alike at all times."""
    outputs = [model(x, t, **cond) for t in times]
    return _alike(outputs, _slack(x, *outputs))


def _mode(model: Model) -> str:
    """What to do about a network that answers by chance or by its batch."""
    modules = model.net.modules() if isinstance(model.net, nn.Module) else ()
    layers = [module for module in modules if module.training and not any(True for _ in module.children())]
    names = dict.fromkeys(type(layer).__name__ for layer in layers)
    moody = [name for name in names if "Drop" in name or ("Norm" in name and name not in STEADY)]
    return f"call net.eval() (in training mode: {', '.join(moody)})" if moody else "call net.eval()"


def _blind(model: Model, x: Tensor, times: list[float], cond: dict[str, Any]) -> str | None:
    """The name of a network inside of wrappers, their .net or .model, that answers alike whatever time it is told."""
    inside, calls, net = [], {}, model.net
    while isinstance(net := getattr(net, "net", getattr(net, "model", None)), nn.Module):
        inside.append(net)

    def note(module: nn.Module, args: Any, kwargs: Any) -> None:
        calls.setdefault(module, []).append((args, kwargs))

    hooks = [module.register_forward_pre_hook(note, with_kwargs=True) for module in inside]
    try:
        for t in times:
            model(x, t, **cond)
    finally:
        for hook in hooks:
            hook.remove()
    for module in reversed(inside):
        noted = calls.get(module, [])
        if len(noted) == len(times) and all(len(args) > 1 and isinstance(args[1], Tensor) for args, _ in noted):
            (first, *_), kwargs = noted[0]
            outputs = [module(first, *args[1:], **kwargs) for args, _ in noted]
            if all(isinstance(y, Tensor) for y in outputs) and _alike(outputs, _slack(x, *outputs)):
                return type(module).__name__
    return None
