"""Hypothesis strategies: processes, times, predictions, states, mixtures and grids to try your own code on.

What is drawn shrinks towards the plain: RectifiedFlow(), the middle of time, "x0", one sample that is zero, one mode,
one step.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.prediction import PREDICTIONS, Prediction
from scoresde.process import EDM, VE, VP, Cosine, Discrete, Process, RectifiedFlow, Sigmoid, SubVP, ddpm
from scoresde.samplers import grids as named_grids
from scoresde.targets import GaussianMixture

try:
    from hypothesis import strategies as st
    from hypothesis.strategies import SearchStrategy
except ImportError as error:
    raise ImportError('strategies need hypothesis; write pip install "scoresde[testing]"') from error

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)

GRIDS = ("uniform", "quadratic", "logsnr", "karras", "trailing", "leading", "graded")


def _floats(low: float, high: float) -> SearchStrategy[float]:
    return st.floats(low, high, allow_nan=False, allow_infinity=False)


def _floating(dtype: Any) -> torch.dtype:
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise TypeError(f"dtype must be a floating one, such as torch.float32, got {dtype!r}")
    return dtype


def processes() -> SearchStrategy[Process]:
    """All built-in processes, with their defaults and with random settings.

    Example:
        >>> from hypothesis import given
        >>> from scoresde.testing import strategies
        >>> @given(strategies.processes())
        ... def test_noise_wins(process):
        ...     assert process.logsnr(process.t_max) < 0
        >>> test_noise_wins()
    """
    betas = st.lists(_floats(0.01, 0.9), min_size=1, max_size=8).map(lambda b: Discrete([*b, 0.9, 0.9]))
    return st.one_of(
        st.sampled_from((RectifiedFlow(), VP(), SubVP(), VE(), EDM(), Cosine(), Sigmoid(), ddpm())),
        st.builds(VP, _floats(0.01, 1.0), _floats(5.0, 40.0)),
        st.builds(SubVP, _floats(0.01, 1.0), _floats(5.0, 40.0)),
        st.builds(VE, _floats(1e-3, 0.1), _floats(10.0, 500.0)),
        st.builds(EDM, _floats(1e-4, 0.1), _floats(10.0, 500.0)),
        st.builds(Cosine, _floats(0.0, 0.1)),
        st.builds(Sigmoid, _floats(-6.0, -1.0), _floats(1.0, 6.0), _floats(0.3, 2.0)),
        betas,
        st.builds(ddpm, st.sampled_from((50, 100, 1000)), st.sampled_from(("linear", "cosine", "sigmoid"))),
    )


def times(
    process: Process, size: int | None = None, *, ends: bool = True, dtype: torch.dtype = torch.float64
) -> SearchStrategy[Any]:
    """Times of a process, crowded at both ends, 0 and t_max among them.

    Args:
        process: whose times they are.
        size: None for a number; 0 for a tensor (), n for a tensor (n,). ends: whether 0 and t_max may be drawn.
        dtype: of the tensor.
    Raises:
        TypeError, ValueError: not a process, a size below 0, no floating dtype.

    Example:
        >>> from hypothesis import given
        >>> from scoresde import VP
        >>> from scoresde.testing import strategies
        >>> @given(strategies.times(VP(), 3))
        ... def test_alpha_is_a_share(t):
        ...     assert ((VP().alpha(t) > 0) & (VP().alpha(t) <= 1)).all()
        >>> test_alpha_is_a_share()
    """
    _checks.kind("process", process, Process, "VP()")
    _floating(dtype)
    inside = _floats(-16.0, 16.0).map(lambda u: process.t_max / (1 + math.exp(-u)))
    one = st.one_of(inside, st.sampled_from((0.0, process.t_max))) if ends else inside
    if size is None:
        return one
    if _checks.count("size", size, 0) == 0:
        return one.map(lambda t: torch.tensor(t, dtype=dtype))
    return st.lists(one, min_size=size, max_size=size).map(lambda t: torch.tensor(t, dtype=dtype))


@dataclass(frozen=True)
class Row:
    """A prediction that is determined everywhere: y = u x + w v with w > 0, v the row (−σ, α)."""

    u: float
    w: float

    def __call__(self, process: Process, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = process.alpha(t), process.sigma(t)
        return self.u * alpha - self.w * sigma, self.u * sigma + self.w * alpha


def predictions() -> SearchStrategy[Prediction]:
    """Names of predictions, and random rows of one's own, that determine x₀ and noise at all times.

    Example:
        >>> from hypothesis import given
        >>> from scoresde import VP, Model
        >>> from scoresde.testing import strategies
        >>> @given(strategies.predictions())
        ... def test_a_model_predicts_it(prediction):
        ...     Model(lambda x, t: x, VP(), prediction)
        >>> test_a_model_predicts_it()
    """
    return st.one_of(st.sampled_from(tuple(PREDICTIONS)), st.builds(Row, _floats(-2.0, 2.0), _floats(0.25, 4.0)))


def states(
    shape: Sequence[int] | SearchStrategy[Sequence[int]] | None = None,
    dtype: torch.dtype | SearchStrategy[torch.dtype] | None = None,
    *,
    bound: float = 10.0,
) -> SearchStrategy[Tensor]:
    """States x: (B, *), finite, contiguous or strided or expanded.

    Args:
        shape: (B, *), or a strategy of such; any with none to three samples and up to four dimensions if None.
        dtype: or a strategy of such; any floating one if None. bound: of |x|.
    Raises:
        TypeError, ValueError: no shape, no floating dtype, a bound that is not above zero.

    Example:
        >>> import torch
        >>> from hypothesis import given
        >>> from scoresde import VP
        >>> from scoresde.testing import strategies
        >>> @given(strategies.states())
        ... def test_noising_keeps_the_form(x):
        ...     noisy, _ = VP().perturb(x, 0.5)
        ...     assert noisy.shape == x.shape and noisy.dtype == x.dtype
        >>> test_noising_keeps_the_form()
    """
    _checks.positive("bound", bound)
    batch, rest = st.sampled_from((1, 2, 3, 0)), st.lists(st.integers(1, 3), max_size=3)
    if shape is None:
        shape = st.builds(lambda b, r: (b, *r), batch, rest)
    elif not isinstance(shape, SearchStrategy):
        shape = st.just(_checks.shape("shape", shape))
    if dtype is None:
        dtype = st.sampled_from(DTYPES)
    elif not isinstance(dtype, SearchStrategy):
        dtype = st.just(_floating(dtype))

    @st.composite
    def drawn(draw: Any) -> Tensor:
        sizes, kind = tuple(draw(shape)), draw(dtype)
        layout = draw(st.sampled_from(("contiguous", "strided", "expanded")))
        n = math.prod(sizes[1:] if layout == "expanded" else sizes)
        size = n or 2  # so that one sample is plainer than none
        numbers = draw(st.lists(_floats(-bound, bound), min_size=size, max_size=size))[:n]
        x = torch.tensor(numbers, dtype=torch.float64).to(kind)
        if layout == "expanded":
            return x.reshape(sizes[1:]).expand(sizes)
        return x.reshape(sizes) if layout == "contiguous" else torch.stack([x, x], 1)[:, 0].unflatten(0, sizes)

    return drawn()


def mixtures(dim: int | None = None, modes: int | None = None) -> SearchStrategy[GaussianMixture]:
    """Gaussian mixtures in float64, with means within 2 and covariances of any direction.

    Args:
        dim: D, 1 to 3 if None. modes: K, 1 to 4 if None.
    Raises:
        TypeError, ValueError: numbers below 1.

    Example:
        >>> from hypothesis import given
        >>> from scoresde.testing import strategies
        >>> @given(strategies.mixtures(dim=2))
        ... def test_weights(mixture):
        ...     assert abs(float(mixture.weights.sum()) - 1) < 1e-12
        >>> test_weights()
    """

    dims = st.integers(1, 3) if dim is None else st.just(_checks.count("dim", dim))
    counts = st.integers(1, 4) if modes is None else st.just(_checks.count("modes", modes))

    @st.composite
    def drawn(draw: Any) -> GaussianMixture:
        d, k = draw(dims), draw(counts)

        def numbers(n: int, low: float, high: float) -> Tensor:
            return torch.tensor(draw(st.lists(_floats(low, high), min_size=n, max_size=n)), dtype=torch.float64)

        weights, means = numbers(k, 0.1, 1.0), numbers(k * d, -2.0, 2.0).reshape(k, d)
        factors = numbers(k * d * d, -0.7, 0.7).reshape(k, d, d)
        return GaussianMixture(weights, means, factors @ factors.mT + 0.05 * torch.eye(d, dtype=torch.float64))

    return drawn()


def grids(process: Process, steps: int | None = None) -> SearchStrategy[Tensor]:
    """Times that decrease strictly from t_max to 0, in float64: by the named grids, and at random.

    Args:
        process: whose times they are. steps: how many, 1 to 12 if None.
    Raises:
        TypeError, ValueError: not a process, steps below 1.

    Example:
        >>> from hypothesis import given
        >>> from scoresde import VP
        >>> from scoresde.testing import strategies
        >>> @given(strategies.grids(VP()))
        ... def test_they_decrease(grid):
        ...     assert (grid.diff() < 0).all()
        >>> test_they_decrease()
    """
    _checks.kind("process", process, Process, "VP()")
    most = min(12, process.steps) if isinstance(process, Discrete) else 12
    counts = st.integers(1, most) if steps is None else st.just(_checks.count("steps", steps))

    @st.composite
    def drawn(draw: Any) -> Tensor:
        n = draw(counts)
        name = draw(st.sampled_from((*GRIDS, "random")))
        if name != "random":
            times = getattr(named_grids, name)(process, n)
            if len(times) > 1 and bool((times.diff() < 0).all()):
                return times
        gaps = torch.tensor(draw(st.lists(_floats(0.05, 1.0), min_size=n, max_size=n)), dtype=torch.float64)
        inner = gaps.flip(0).cumsum(0).flip(0) / gaps.sum() * process.t_max
        return torch.cat([inner.clamp_max(process.t_max), inner.new_zeros(1)])

    return drawn()
