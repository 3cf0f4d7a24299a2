"""The classifier two-sample test: can a network tell samples from real ones?"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from scoresde.metrics import _checks

WIDTH, NETS, STEPS, BATCH, RATE = 32, 4, 200, 128, 0.01


def classifier_test(x: Tensor, y: Tensor, folds: int = 5, generator: torch.Generator | None = None) -> float:
    """The accuracy, on samples held out, of a small network trained to tell x from y (C2ST).

    Cross-validated: each fold is judged by four networks of two hidden layers trained on the other folds (standardised
    inputs, 200 steps of AdamW, all folds at once). Accuracies on x and y are averaged, so that 0.5 is chance whatever
    the sizes. The best that any classifier reaches is (1 + total variation)/2, for normal laws N(m, I) a distance δ
    apart Φ(δ/2); this one stays below it, the further the fewer samples there are: a lower bound.

    Args:
        x: (N, *), samples. y: (M, *), real ones. folds: how many. generator: of folds, weights and batches (a fixed
            one if None, so that values compare).
    Raises:
        ValueError: sets of different shapes, fewer than 2 samples a fold, numbers that are not finite.

    Example:
        >>> import torch
        >>> x = torch.randn(100, 2, generator=torch.Generator().manual_seed(0))
        >>> classifier_test(x, x + 20)
        1.0

    Reference: Lopez-Paz and Oquab (2017), arXiv 1610.06545.
    """
    return sum(_accuracies(x, y, folds, generator)) / 2


def classifier_estimate(x: Tensor, y: Tensor, *_: Any) -> tuple[float, float]:
    """`classifier_test` and its standard error, for its mean at these sizes of the sets.

    s² = (1 + K/(K − 1)) (p(1 − p)/N + q(1 − q)/M)/4, p and q the accuracies on x and y: the binomial variance of the
    held-out answers, times the factor by which folds that share their training sets add to it. No resampling.

    Reference: Nadeau and Bengio (2003), Inference for the generalization error, Mach. Learn. 52.
    """
    folds = 5
    p, q = _accuracies(x, y, folds, None)
    n, m = len(x), len(y)
    a, b = (p * n + 1) / (n + 2), (q * m + 1) / (m + 2)  # so that no error is 0
    return (p + q) / 2, math.sqrt((1 + folds / (folds - 1)) * (a * (1 - a) / n + b * (1 - b) / m) / 4)


def _accuracies(x: Tensor, y: Tensor, folds: int, generator: torch.Generator | None) -> tuple[float, float]:
    """On x and on y, each answer from the networks that did not see it."""
    _checks.whole("folds", folds, 2)
    x, y = _checks.two_sets(x, y, 2 * folds)
    source, n = _checks.source(generator), len(x)
    z = torch.cat([x, y])
    z = (z - z.mean(0)) / z.std(0).clamp_min(1e-30)
    z = z.float()
    is_x = torch.arange(len(z), device=z.device) < n
    fold = torch.cat([_permutation(len(side), source) % folds for side in (x, y)]).to(z.device)
    owner = torch.arange(folds * NETS) // NETS
    seen = [[torch.nonzero((fold != k) & (is_x == side)).flatten() for side in (True, False)] for k in owner.tolist()]
    answers = _train(z, is_x.float(), seen, source).reshape(folds, NETS, len(z)).mean(1)
    right = (answers[fold, torch.arange(len(z), device=z.device)] > 0) == is_x
    return float(right[:n].double().mean()), float(right[n:].double().mean())


def _train(z: Tensor, label: Tensor, seen: list[list[Tensor]], source: torch.Generator) -> Tensor:
    """Logits (K, B) on all z of K networks, each trained on the rows that it may see; a batch is half x and half y."""
    count, dim = len(seen), z.shape[1]

    def normal(*shape: int, scale: float) -> Tensor:
        return (scale * torch.randn(shape, generator=source, device=source.device)).to(z.device).requires_grad_()

    def zeros(*shape: int) -> Tensor:
        return z.new_zeros(shape).requires_grad_()

    first, second = normal(count, dim, WIDTH, scale=2 / dim**0.5), normal(count, WIDTH, WIDTH, scale=1 / WIDTH**0.5)
    one, two = normal(count, 1, WIDTH, scale=0.5), normal(count, 1, WIDTH, scale=0.5)
    last, three, skip = zeros(count, WIDTH, 1), zeros(count, 1, 1), zeros(count, dim, 1)

    def logits(inputs: Tensor) -> Tensor:
        hidden = functional.silu(torch.baddbmm(one, inputs, first))
        hidden = functional.silu(torch.baddbmm(two, hidden, second))
        return torch.baddbmm(torch.baddbmm(three, hidden, last), inputs, skip)[..., 0]

    optimizer = torch.optim.AdamW([first, second, one, two, last, three, skip], lr=RATE, weight_decay=0.01)
    with torch.enable_grad():
        for step in range(STEPS):
            for group in optimizer.param_groups:
                group["lr"] = RATE * (1 - step / STEPS)
            rows = torch.stack([torch.cat([_some(side, BATCH // 2, source) for side in sides]) for sides in seen])
            loss = functional.binary_cross_entropy_with_logits(logits(z[rows]), label[rows]) * count
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    with torch.no_grad():
        return logits(z.expand(count, -1, -1))


def _permutation(n: int, source: torch.Generator) -> Tensor:
    return torch.randperm(n, generator=source, device=source.device)


def _some(rows: Tensor, n: int, source: torch.Generator) -> Tensor:
    return rows[torch.randint(len(rows), (n,), generator=source, device=source.device).to(rows.device)]
