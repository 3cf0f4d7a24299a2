"""Guidance by a weaker model: the same network without its condition, with others, or another network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from scoresde import _checks
from scoresde.guidance.shape import there_and_back
from scoresde.guidance.weight import Weight, at, checked, times
from scoresde.model import MARK, Guide, Model, conditions
from scoresde.prediction import weights
from scoresde.process.base import spread


def classifier_free(
    model: Model, weight: Weight, *, null: Mapping[str, Any] | None = None, rescale: float = 0.0
) -> Model:
    """Classifier-free guidance: y(∅) + w (y(c) − y(∅)), both from one call of the network on a batch twice as large.

    w = 1 is the condition c, w = 0 no condition, and in neither case is the other half called. At other w the score is
    that of p_t(x | c)^w p_t(x)^(1−w), in general not that of p_0(x | c)^w p_0(x)^(1−w) noised (docs/theory, eq. 64).

    Args:
        model: with its conditions filled in, model.given(label=y), or to be given them later; numbers, or tensors ()
            or (B, *).
        weight: a number, (B,), or a function of t such as `interval` or lambda t: 1 + 4 * t.
        null: condition → the value that stands for none, such as {"label": 1000}; conditions not named there are kept
            in both halves. None: every condition, integers −1 and other numbers 0, as `fit(drop=...)` trains it.
        rescale: φ in [0, 1], how far the guided v is brought back to the conditional's standard deviation in each
            sample (v = α ε − σ x₀, whatever the network predicts), unless w is 0.
    Raises:
        ValueError, TypeError: an argument that does not fit; at the call, a model without a condition.

    Example:
        >>> import torch
        >>> from scoresde import VP, guidance, sample, targets
        >>> classes = targets.Labelled(targets.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.1), [0, 1])
        >>> model = classes.model(VP()).given(label=torch.tensor([0, 1, 1]))
        >>> sample(guidance.classifier_free(model, 2.0), (3, 1), seeds=range(3)).sign().flatten().tolist()
        [-1.0, 1.0, 1.0]

    Reference: Ho and Salimans (2022), arXiv 2207.12598, eq. 6 (whose w is ours less one, `from_ho_salimans`); rescale:
    Lin et al. (2023), arXiv 2305.08891, eq. 14-16.
    """
    _checks.kind("model", model, Model, "Model(net, VP()).given(label=y)")
    guide = _Free([checked(weight)], [None], null, _checks.number("rescale", rescale, 0.0, 1.0))
    return guide.filled(model, **guide.held)


def compose(
    model: Model, conditions: Sequence[Mapping[str, Any]], weight: Weight | Sequence[Weight], *,
    null: Mapping[str, Any] | None = None,
) -> Model:  # fmt: skip
    """Several conditions at once: y(∅) + Σ w_k (y(c_k) − y(∅)), all from one call of the network on a larger batch.

    The scores are those of p_t(x) Π (p_t(x | c_k)/p_t(x))^w_k, which for conditions that are independent given x, at
    w = 1 and t = 0, is p(x | c_1, ..., c_n). A negative weight keeps away from a condition. Weights of sum one need no
    unconditional call; any condition left out of one part is `null` there.

    Args:
        model: without these conditions filled in.
        conditions: for each part its own, such as [{"label": 3}, {"label": y}]: numbers or tensors () or (B, *).
            Others, filled in with `given`, are kept in all parts.
        weight: of every part, or a list of one each; as `classifier_free`, so that a tensor is one for each sample.
        null: as there, but of all the names in `conditions`.
    Raises:
        ValueError, TypeError: an argument that does not fit.

    Example:
        >>> import torch
        >>> from scoresde import VP, guidance, sample, targets
        >>> classes = targets.Labelled(targets.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], 0.01), [0, 1])
        >>> between = guidance.compose(classes.model(VP()), [{"label": 0}, {"label": 1}], 0.5)  # √(p(x | 0) p(x | 1))
        >>> bool(sample(between, (100, 1), seeds=range(100)).abs().max() < 0.5)
        True

    Reference: Liu et al. (2022), arXiv 2206.01714, eq. 11.
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    parts = [dict(part) for part in _dicts(conditions)]
    if not parts or not all(parts):
        raise ValueError(f"conditions must be a list of one dict a part, as [{{'label': 3}}], got {conditions!r}")
    each = [*weight] if isinstance(weight, (list, tuple)) else [weight] * len(parts)
    if len(each) != len(parts):
        raise ValueError(f"weight must be one, or one for each of {len(parts)} conditions, got {len(each)}")
    if isinstance(null, Mapping) and (missing := {name for part in parts for name in part} - set(null)):
        raise ValueError(f"null must name every condition of the parts, {min(missing)!r} is missing")
    guide = _Free([checked(w) for w in each], parts, null, 0.0)
    return guide.filled(model, **guide.held)


def autoguidance(model: Model, weak: Model, weight: Weight) -> Model:
    """Guidance by a weaker version of the model: y_weak + w (y − y_weak); two calls.

    Args:
        model: the model; w = 1 is it alone. weak: one of less capacity or training, on any process, in any prediction.
            Conditions given later reach both, but for those that `weak` was given with another value, or without.
        weight: as `classifier_free`.
    Raises:
        ValueError, TypeError: an argument that does not fit.

    Example:
        >>> import torch
        >>> from scoresde import VP, guidance, targets
        >>> model, weak = (targets.Gaussian([0.0], variance).model(VP()) for variance in (1.0, 4.0))
        >>> guided, x = guidance.autoguidance(model, weak, 2.0), torch.ones(1, 1)
        >>> round(float(guided.predict("score", x, 1e-4)), 2)  # N(0, 1)² / N(0, 4): variance 4/7
        -1.75

    Reference: Karras et al. (2024), arXiv 2406.02507, eq. 3.
    """
    _checks.kind("model", model, Model, "Model(net, VP())")
    _checks.kind("weak", weak, Model, "Model(smaller_net, VP())")
    weight = checked(weight)
    guide = _Auto(model, weak if weak.process == model.process else weak.on(model.process), weight)
    own = {f"weak {name}": value for name, value in conditions(weak).items() if name not in guide.shared}
    return guide.filled(model, **own, **({"weight": weight} if isinstance(weight, Tensor) else {}))


class _Free(Guide):
    """y(∅) + Σ w_k (y(c_k) − y(∅)); c_k = None stands for the conditions that the model has."""

    def __init__(
        self, weights: list[Any], parts: Sequence[dict[str, Any] | None], null: Mapping[str, Any] | None, rescale: float
    ) -> None:
        super().__init__()
        if null is not None and not isinstance(null, Mapping):
            raise TypeError(f"null must be a dict, condition → the value for none, as {{'label': -1}}, got {null!r}")
        if null is not None and not null:
            raise ValueError("null must name a condition, as {'label': -1}, got {}; leave it out for the defaults")
        self.weights = [None if isinstance(w, Tensor) else w for w in weights]
        self.parts = [None if part is None else tuple(part) for part in parts]
        self.null, self.rescale = null, rescale
        self.held = {f"weight {k}": w for k, w in enumerate(weights) if isinstance(w, Tensor)}
        for k, part in enumerate(parts):
            self.held |= {f"{k} {name}": value for name, value in (part or {}).items()}

    def forward(self, model: Model, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        w = [at(self.own(cond, f"weight {k}") if w is None else w, x, t) for k, w in enumerate(self.weights)]
        own = [{name: self.own(cond, f"{k} {name}") for name in part or ()} for k, part in enumerate(self.parts)]
        cond = {**conditions(model), **cond}
        parts = [{k: _rows(k, value, x) for k, value in (part or self._public(cond)).items()} for part in own]
        blank = {name: self._blank(name, value) for part in parts for name, value in part.items()}
        kept = {name: value for name, value in cond.items() if name not in blank}
        asked = [(1.0 - sum(w), blank), *zip(w, [{**blank, **part} for part in parts])]
        asked = [(w_k, part) for w_k, part in asked if not _is(w_k, 0.0)]
        y = _together(model, x, t, [part for _, part in asked], kept)
        if len(asked) == 1 and _is(asked[0][0], 1.0):
            return y[0]
        guided = torch.stack([times(w_k, x) * y_k for (w_k, _), y_k in zip(asked, y)]).sum(0)
        if not self.rescale:
            return guided
        return _rescaled(
            model, guided, y[-1], x, t, self.rescale * (torch.as_tensor(w[0], device=x.device) != 0).double()
        )

    def _public(self, cond: dict[str, Any]) -> dict[str, Any]:
        """The conditions that are not guides' own."""
        public = {name: value for name, value in cond.items() if not name.startswith(MARK)}
        if not public:
            raise ValueError("classifier_free needs a model with a condition; write model.given(label=y)")
        if unknown := set(self.null or ()) - set(public):
            raise ValueError(f"null names {min(unknown)!r}, which is not a condition of the model: {', '.join(public)}")
        return {name: value for name, value in public.items() if self._drops(name)}

    def _drops(self, name: str) -> bool:
        return self.null is None or name in self.null

    def _blank(self, name: str, value: Tensor) -> Tensor:
        """What stands for no condition in all rows."""
        if self.null is not None:
            none = _checks.table(f"null[{name!r}]", self.null[name]).to(value.device)
            if not value.is_floating_point() and not bool((none == none.round()).all()):
                raise ValueError(f"null[{name!r}] must be whole, as the condition is, got {none.tolist()}")
            try:
                return none.to(value.dtype).expand_as(value)
            except RuntimeError:
                raise ValueError(
                    f"null[{name!r}] must broadcast to the condition, {tuple(value.shape)}, got {tuple(none.shape)}"
                ) from None
        if value.is_floating_point() or value.is_complex() or value.dtype == torch.bool:
            return torch.zeros_like(value)
        if torch.iinfo(value.dtype).min == 0:
            raise TypeError(f"the condition {name!r} of {value.dtype} has no number for its absence; write null=")
        return torch.full_like(value, -1)


class _Auto(Guide):
    """y_weak + w (y − y_weak)."""

    def __init__(self, model: Model, weak: Model, weight: Any) -> None:
        super().__init__()
        self.weak, self.weight = weak, None if isinstance(weight, Tensor) else weight
        ours, theirs = conditions(model), conditions(weak)
        self.shared = {name for name in theirs if name in ours and _equal(ours[name], theirs[name])}
        self.kept = tuple(name for name in theirs if name not in self.shared)
        self.left = {name for name in ours if name not in theirs}
        if isinstance(weak.net, nn.Module):
            self.net = weak.net

    def forward(self, model: Model, x: Tensor, t: Tensor, **cond: Any) -> Tensor:
        w = at(self.own(cond, "weight") if self.weight is None else self.weight, x, t)
        own = {name: self.own(cond, f"weak {name}") for name in self.kept}
        theirs = {k: value for k, value in cond.items() if not k.startswith(MARK) and k not in self.left} | own
        if _is(w, 1.0):
            return model(x, t, **cond)
        y = self.weak(x, t, **theirs)
        if self.weak.prediction != model.prediction:
            u, v = (spread(c, x) for c in weights(model.process, t, self.weak.prediction, model.prediction))
            y = u * x + v * y
        return y if _is(w, 0.0) else times(w, x) * model(x, t, **cond) + times(1.0 - w, x) * y


def _dicts(parts: Any) -> list[Mapping[str, Any]]:
    """Parts of a composition, or none if one of them is no dict."""
    found = [*parts] if isinstance(parts, (list, tuple)) else []
    return found if all(isinstance(part, Mapping) for part in found) else []


def _equal(one: Any, other: Any) -> bool:
    one, other = torch.as_tensor(one), torch.as_tensor(other)
    return one.shape == other.shape and bool((one.to(other.device) == other).all())


def _is(weight: float | Tensor, value: float) -> bool:
    return isinstance(weight, float) and weight == value


def _rows(name: str, value: Any, x: Tensor) -> Tensor:
    """A condition with one value for each sample of x."""
    if not isinstance(value, (bool, int, float, Tensor)):
        raise TypeError(f"the condition {name!r} must be a number or a tensor (B, *), got {type(value).__name__}")
    value = torch.as_tensor(value, device=x.device)
    if value.ndim and len(value) != len(x):
        raise ValueError(
            f"the condition {name!r} must have shape () or ({len(x)}, *) for {len(x)} samples, got {tuple(value.shape)}"
        )
    return value if value.ndim else value.expand(len(x))


def _together(
    model: Model, x: Tensor, t: Tensor, parts: Sequence[dict[str, Tensor]], kept: dict[str, Any]
) -> Sequence[Tensor]:
    """The model's outputs under each part's conditions, by one call."""
    if len(parts) == 1:
        return [model(x, t, **kept, **parts[0])]
    n = len(parts)

    def again(value: Any, name: str = "") -> Any:
        return torch.cat([_rows(name, value, x)] * n) if isinstance(value, Tensor) and value.ndim else value

    joined = {name: torch.cat([part[name].to(x.device) for part in parts]) for name in parts[0]}
    y = model(again(x), again(t), **{name: again(value, name) for name, value in kept.items()}, **joined)
    return y.unflatten(0, (n, len(x))).unbind()


def _rescaled(model: Model, guided: Tensor, reference: Tensor, x: Tensor, t: Tensor, share: Tensor) -> Tensor:
    """`guided` with the standard deviation of its v moved by a share towards the reference's, in each sample.

    Not where the prediction says nothing of v, or v nothing of it.
    """
    (u, w, back), known = there_and_back(model, "v", t)
    u, w = (spread(c, x) for c in (u, w))
    v, wanted = u * x + w * guided, u * x + w * reference
    have, want = (value.flatten(1).std(1, correction=0) for value in (v, wanted))
    factor = torch.where(have > 0, want / torch.where(have > 0, have, 1.0), 1.0)
    return guided + spread(back, x) * spread(share * known * (factor - 1), x) * v
