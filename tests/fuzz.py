"""Wrong calls: values that an argument must not take, by its kind, and the judge of what comes of them."""

import math
import re
import signal
import threading
from contextlib import contextmanager

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

EACH = 12
"""Wrong values thrown at every argument of a call."""

SECONDS = 20
"""A call that takes longer hangs."""

NAN, INF = math.nan, math.inf
BELOW_ONE = math.nextafter(1.0, 0.0)
X = torch.tensor([[0.5, -1.0], [0.25, 2.0], [-0.5, 0.125]])
NOTHING = [None, "three", "", b"x", [], {}, (), set(), object(), ..., int, len, print, 1j, slice(2)]
"""Of no use to any argument, but where None or a function may stand."""

ARRAYS = [
    torch.ones(2), torch.ones(2, 2), torch.empty(0), torch.tensor(NAN), torch.tensor([INF]),
    torch.ones((), device="meta"), torch.ones(1, dtype=torch.complex64), np.ones(3), np.array(NAN), np.array(["a"]),
]  # fmt: skip
"""Not numbers, though they look like some."""


def among(values):
    """One of some values, which need not have an equality."""
    return st.integers(0, len(values) - 1).map(lambda i: values[i])


def junk(none=False, functions=False, empty=False):
    """Of no use, though None, functions or empty lists may be."""
    unfit = [v for v in NOTHING if not (none and v is None) and not (functions and callable(v))]
    return among([v for v in unfit if not (empty and v in ([], ()))])


def number(low=-INF, high=INF, above=False, none=False):
    """Not a finite number in [low, high], or above `low`."""
    wrong = [junk(none), among(ARRAYS), st.booleans(), st.sampled_from([NAN, INF, -INF, np.float32(NAN), 10**400])]
    if low > -INF:
        wrong.append(st.floats(max_value=low, exclude_max=not above, allow_infinity=False))
    if high < INF:
        wrong.append(st.floats(min_value=high, exclude_min=True, allow_infinity=False))
    return st.one_of(*wrong)


def count(least=1, most=None, none=False):
    """Not a whole number of at least `least`, and at most `most`."""
    wrong = [
        junk(none),
        among([*ARRAYS, torch.tensor(2.5)]),
        st.floats(),
        st.booleans(),
        st.integers(max_value=least - 1),
    ]
    return st.one_of(*wrong, *([] if most is None else [st.integers(min_value=most + 1)]))


def choice(*known, none=False, functions=False):
    """Not one of the known names."""
    near = {k[:-1] for k in known} | {k.upper() for k in known} | {f"{k} " for k in known}
    text = st.one_of(st.text(max_size=12), st.sampled_from(sorted(near))).filter(lambda v: v not in known)
    return st.one_of(text, junk(none, functions), st.floats(), st.integers(), among([X, known]))


def flag():
    """Neither True nor False."""
    return st.one_of(junk(), among(ARRAYS), st.text(max_size=3), st.floats(), st.integers(2, 9))


def part(*alike, none=False, functions=False):
    """Not an object of the class: its class, its name, a number, what is only `alike`."""
    return st.one_of(junk(none, functions), st.integers(), st.floats(), st.text(max_size=5), among([X, *alike]))


def table(*wrong, none=False, functions=False, empty=False):
    """Neither a number nor an array of them that would do."""
    unfit = [NAN, "a", [NAN], ["b"], [1j], torch.tensor(NAN), X * NAN, X.to("meta"), X.to(torch.complex64), *wrong]
    return st.one_of(junk(none, functions, empty), among(unfit), st.text(max_size=5))


def state(x=X, *others, none=False, values=True):
    """Not a finite floating tensor (B, *), or one of the `others`, of a shape that does not fit.

    Without `values`: those that a call has to look at, and so to wait for an accelerator, are left out.
    """
    spoiled = st.tuples(st.integers(0, x.numel() - 1), st.sampled_from([NAN, INF, -INF])).map(
        lambda pair: x.flatten().scatter(0, torch.tensor(pair[0]), pair[1]).reshape(x.shape)
    )
    kinds = [x.tolist(), x.numpy(), x.long(), x.bool(), x.to(torch.complex64), x.sum(), x.to_sparse()]
    wrong = [junk(none), st.floats(), among([*kinds, torch.nn.Linear(2, 2), *others])]
    return st.one_of(*wrong, *([spoiled, st.just(x.to("meta"))] if values else []))


def time(t_max=1.0, size=3, none=False, numbers=False, values=True):
    """Not times () or (B,) in [0, t_max]; `numbers`: of any shape, without a batch to compare with, on any device."""
    outside = st.one_of(st.floats(max_value=0, exclude_max=True), st.floats(min_value=t_max * 1.001), st.just(NAN))
    half = torch.full((size,), 0.5)
    wrong = [half.long(), half.bool(), half.numpy(), half.to(torch.complex64), half.to_sparse()]
    wrong += [half * NAN, torch.cat([half[1:], half[:1] + t_max]), -half[0]] if values else []
    wrong += [] if numbers else [half.to("meta"), half[:, None], torch.full((size + 1,), 0.5), torch.empty(0)]
    return st.one_of(junk(none), outside, st.booleans(), among(wrong))


def generator():
    """Neither None nor a torch.Generator."""
    return st.one_of(junk(none=True), st.integers(), among([np.random.default_rng(0), torch.Generator, X]))


def shape(whole=False, none=False, numbers=False):
    """Not a shape (B, *); `whole`: of one sample, for which one number or () stands too; `numbers`: only () does."""
    unfit = [(3, -2), (3, 2.5), (-1, 2), (3, None), (3, "2"), (NAN, 2), (True, 2), ((3, 2),), "ab", X]
    wrong = [st.integers(max_value=0)] if whole else [st.integers(1, 5)]
    nothing = junk(none, empty=whole).filter(lambda v: not (numbers and v == ()))
    return st.one_of(nothing, st.floats(), among(unfit), *wrong)


def path():
    """Not a path."""
    return st.one_of(junk().filter(lambda v: not isinstance(v, str)), st.integers(), st.floats(), st.just(X))


def function():
    """Not callable."""
    return st.one_of(junk(functions=True), st.integers(), st.floats(), st.just(X))


class Hung(Exception):  # noqa: N818
    """A call that did not end in time."""


@contextmanager
def at_most(seconds):
    """Raise Hung after so many seconds, in the main thread, where the system has alarms."""
    if not hasattr(signal, "SIGALRM") or threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_):
        raise Hung(f"no answer in {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def fault(function, valid, name, wrong, seconds=SECONDS):
    """What is wrong with how a call takes one wrong argument; None if it is refused by name."""
    try:
        with at_most(seconds):
            result = function(**{**valid, name: wrong})
    except (ValueError, TypeError) as error:
        if re.search(rf"(?<![\w']){name}(?![\w'])", str(error)):
            return None
        return f"{name} = {shown(wrong)} is refused without its name: {type(error).__name__}: {str(error)[:300]}"
    except Exception as error:
        return f"{name} = {shown(wrong)} ends in {type(error).__name__}: {str(error)[:300]}"
    return f"{name} = {shown(wrong)} is accepted: {shown(result)}"


def shown(value):
    return " ".join(repr(value).split())[:160]


def throw(call, each=EACH):
    """Throw `each` wrong values at every argument of a call, (function, {name: (valid, wrong values)}); how many."""
    function, arguments = call
    valid = {name: value for name, (value, _) in arguments.items()}
    return sum(_throw(function, valid, name, strategy, each) for name, (_, strategy) in arguments.items())


def _throw(function, valid, name, strategy, each):
    thrown = 0

    @settings(max_examples=each, derandomize=True, deadline=None, database=None)
    @given(strategy)
    def throw_one(wrong):
        nonlocal thrown
        thrown += 1
        found = fault(function, valid, name, wrong)
        assert found is None, found

    throw_one()
    return thrown
