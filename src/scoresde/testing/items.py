"""The kit as test items: each property of a part is one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

from scoresde import _checks
from scoresde.dynamics import Dynamics
from scoresde.process import Process
from scoresde.samplers import Sampler
from scoresde.testing.kit import Case, Property, Report, reported
from scoresde.testing.parts import dynamics, guidance, likelihood, prediction, process, sampler

KINDS = {
    "process": process, "prediction": prediction, "sampler": sampler, "dynamics": dynamics, "guidance": guidance,
    "likelihood": likelihood,
}  # fmt: skip

PROPERTIES: dict[str, tuple[Property, ...]] = {name: module.PROPERTIES for name, module in KINDS.items()}
"""Kind of part → what must hold of it; a property says its name, meaning, proof, and what to change."""


def properties(part: Any, kind: str | None = None, /, **settings: Any) -> list[Case]:
    """The properties of a part, one case each: called, it raises AssertionError with the smallest counter-example.

    Args:
        part: a process, sampler, dynamics or name of a prediction; or, with its kind, a function.
        kind: "process", "prediction", "sampler", "dynamics", "guidance" or "likelihood"; by default by the part's type.
        settings: as the check of that kind takes them, such as order=2 (and a sampler's own kind="weak").
    Raises:
        TypeError, ValueError: arguments that do not fit.

    Example:
        >>> import pytest
        >>> from scoresde import VP
        >>> from scoresde.testing import properties
        >>> @pytest.mark.parametrize("case", properties(VP()), ids=str)
        ... def test_my_process(case):
        ...     case()
        >>> [str(case) for case in properties(VP())][:3]
        ['has an interval of time', 'answers numbers and tensors', 'begins at the data']
    """
    if kind is None:
        kind = _kind(part)
    module = KINDS[_checks.choice("kind", kind, KINDS)]
    check = getattr(module, f"check_{kind}")
    try:
        inspect.signature(check).bind(part, **settings)
    except TypeError as error:
        takes = list(inspect.signature(check).parameters)[1:]
        known = f"takes {', '.join(takes)}" if takes else "takes none"
        raise TypeError(f"settings must be those of check_{kind}, which {known}; got {error}") from None
    return module.cases(part, **settings)


def examine(part: Any, kind: str | None = None, /, **settings: Any) -> Report:
    """The report of a part, whatever it says; the checks (`check_process` and the others) raise if it is not good.

    Args:
        part, kind, settings: as of `properties`.
    Raises:
        TypeError, ValueError: arguments that do not fit.

    Example:
        >>> from scoresde import VP
        >>> from scoresde.testing import examine
        >>> class Half(VP):
        ...     def sigma_dot(self, t):
        ...         return 0.5 * super().sigma_dot(t)
        >>> examine(Half()).failed
        ('derivatives are those',)
    """
    return reported(properties(part, kind, **settings))


def properties_of(part: Any, kind: str | None = None, /, **settings: Any) -> Callable[..., None]:
    """A pytest test with an item for each property of a part; those that say nothing of it are skipped.

    Args:
        part, kind, settings: as of `properties`.
    Raises:
        ImportError: without pytest. TypeError, ValueError: arguments that do not fit.

    Example:
        >>> from scoresde import VP
        >>> from scoresde.testing import properties_of
        >>> test_my_process = properties_of(VP())  # in a test file: items test_my_process[alpha falls], ...
    """
    try:
        import pytest
    except ImportError as error:
        raise ImportError('properties_of needs pytest; write pip install "scoresde[testing]"') from error

    @pytest.mark.parametrize("case", properties(part, kind, **settings), ids=str)
    def test(case: Case) -> None:
        __tracebackhide__ = True
        finding = case.find()
        if finding.reason:
            pytest.skip(finding.reason)
        if not finding.passed:
            pytest.fail(f"{case.part}: {finding}", pytrace=False)

    return test


def _kind(part: Any) -> str:
    for kind, name in ((Process, "process"), (Sampler, "sampler"), (Dynamics, "dynamics"), (str, "prediction")):
        if isinstance(part, kind):
            return name
    got = f"the class {part.__name__}; write {part.__name__}()" if isinstance(part, type) else repr(part)[:80]
    raise TypeError(
        f"part must be a Process, Sampler, Dynamics or the name of a prediction, or say what it is: "
        f"kind='prediction', 'sampler', 'guidance' or 'likelihood' for a function; got {got}"
    )
