"""The reference is whole: each public name is on a page, and its docstring says what a reader needs."""

import ast
import builtins
import doctest
import inspect
import re
from dataclasses import is_dataclass
from importlib import import_module

import pytest

from tests.docs import reference

MODULES = (
    "",
    ".samplers",
    ".likelihood",
    ".guidance",
    ".training",
    ".targets",
    ".networks",
    ".metrics",
    ".data",
    ".testing",
)

NO_EXAMPLE = {
    "scoresde.metrics.inception_features": "needs weights that do not come with the package",
    "scoresde.runs.train": "a command", "scoresde.runs.sample": "a command", "scoresde.runs.likelihood": "a command",
    "scoresde.compare.compare": "a command", "scoresde.compare.Row": "what it returns",
    "scoresde.likelihood.LogProb": "what log_prob returns", "scoresde.likelihood.Elbo": "what elbo returns",
    "scoresde.likelihood.Vlb": "what vlb returns", "scoresde.likelihood.BitsPerDim": "what bits_per_dim returns",
    "scoresde.likelihood.Variational": "what fit_dequantizer returns",
}  # fmt: skip
"""Besides the results of scoresde.testing, which the examples of its functions show."""

NO_ERRORS = {
    "scoresde.runs.train": "a command, whose refusals are one line",
    "scoresde.runs.sample": "as train",
    "scoresde.runs.likelihood": "as train",
    "scoresde.compare.compare": "as train",
    "scoresde.training.Integrand": "takes any function; the loss that uses it checks what it returns",
}
"""Of what is called with arguments; a class whose constructor checks nothing needs no place here."""

OWN = {
    "scoresde.likelihood": ("BitsPerDim", "Elbo", "LogProb", "Vlb"),
    "scoresde.testing.strategies": ("processes", "times", "predictions", "states", "mixtures", "grids"),
    "scoresde.runs": ("train", "sample", "likelihood"),
    "scoresde.compare": ("compare", "Row"),
    "scoresde": ("Model", "Count", "Dynamics", "distribution", "round_trip"),
    "scoresde.samplers": ("Sampler", "Unfinished", "sample_shards"),
    "scoresde.samplers.grids": ("uniform",),
    "scoresde.training": ("DamagedError", "Record", "Report", "load", "moments", "save"),
    "scoresde.targets": ("Gaussian", "Labelled", "Target", "checkerboard", "moons", "rings", "swiss_roll"),
    "scoresde.networks": ("Recorded",),
    "scoresde.metrics": ("Estimate", "Features", "Metric", "measure"),
    "scoresde.data": ("Data", "load", "waves_law"),
}
"""Names without a published source: results, folklore and this package's own; all of scoresde.testing is of these."""


def listed():
    """(module, name, thing) of every name on the pages."""
    for module, _, names in reference.PAGES.values():
        home = import_module(module)
        for name in home.__all__ if names is None else names:
            if not inspect.ismodule(getattr(home, name)):
                yield module, name, getattr(home, name)


def public():
    """(path, thing) of every public name of the package, modules excepted."""
    for part in MODULES:
        home = import_module(f"scoresde{part}")
        yield from ((f"scoresde{part}.{name}", getattr(home, name)) for name in home.__all__)
    grids = import_module("scoresde.samplers.grids")
    yield from ((f"grids.{name}", f) for name, f in vars(grids).items() if is_grid(name, f, grids.__name__))


def is_grid(name, thing, module):
    return inspect.isfunction(thing) and thing.__module__ == module and not name.startswith("_")


ENTRIES = {f"{module}.{name}": thing for module, name, thing in listed() if callable(thing)}
each = pytest.mark.parametrize("path", ENTRIES)


def said(path):
    """The docstring, its own."""
    return inspect.cleandoc(ENTRIES[path].__doc__ or "")


def parameters(thing):
    """What it is called with; of a class not what it hands on."""
    try:
        known = inspect.signature(thing).parameters.values()
    except (TypeError, ValueError):  # an exception's
        return []
    return [p.name for p in known if not (inspect.isclass(thing) and p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD))]


def checks(thing):
    """Whether it may refuse arguments: a function that has some, a class whose constructor raises or calls a check."""
    if not inspect.isclass(thing):
        return bool(parameters(thing))
    ours = [kind for kind in thing.__mro__ if kind.__module__.startswith("scoresde")]
    built = [vars(kind).get("__post_init__" if is_dataclass(kind) else "__init__") for kind in ours]
    return any(re.search(r"\braise |_checks\.|_between\(", inspect.getsource(one)) for one in built if one)


def test_pages_hold_every_public_name(tmp_path):
    reference.write(tmp_path)
    headings = {p: re.findall(r"^## (\w+)$", (tmp_path / f"{p}.md").read_text(), re.M) for p in reference.PAGES}
    shown = [(n, getattr(import_module(reference.PAGES[p][0]), n)) for p, names in headings.items() for n in names]
    for path, thing in public():
        if not inspect.ismodule(thing):
            found = any(name == path.rpartition(".")[2] and other is thing for name, other in shown)
            assert found, f"{path} is on no page of docs/reference.py; add it to PAGES"
    assert all(re.search(rf"^{page}$", (tmp_path / "index.md").read_text(), re.M) for page in headings)


def test_a_name_stands_once_on_a_page():
    paths = [(module, name) for module, name, _ in listed()]
    assert len(paths) == len(set(paths))


@each
def test_first_line_is_a_sentence(path):
    first, *rest = said(path).split("\n")
    assert first.endswith("."), f"the docstring of {path} must begin with a sentence on one line, got {first!r}"
    assert not rest or not rest[0], f"an empty line must follow the first one of {path}"


@each
def test_parameters_are_described(path):
    wanted = parameters(ENTRIES[path])
    assert not wanted or re.search(r"^Args:$", said(path), re.M), f"{path} needs Args: {', '.join(wanted)}"
    missing = [name for name in wanted if not re.search(rf"\b{name}\b", said(path))]
    assert not missing, f"the docstring of {path} does not say what these are: {', '.join(missing)}"


@each
def test_an_example_is_there(path):
    result = path.startswith("scoresde.testing.") and is_dataclass(ENTRIES[path])
    has = ">>> " in said(path)
    assert has or result or path in NO_EXAMPLE, f"{path} needs an example, or a reason in NO_EXAMPLE"
    assert not (has and path in NO_EXAMPLE), f"{path} has an example: take it out of NO_EXAMPLE"


@each
def test_an_example_stands_alone(path):
    """It imports what it names, but for what it is an example of; that it runs, the doctests show."""
    tree = ast.parse("\n".join(e.source for e in doctest.DocTestParser().get_examples(said(path))))
    nodes, known = list(ast.walk(tree)), {*vars(builtins), path.rpartition(".")[2]}
    for node in nodes:
        known |= {node.name} if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.ExceptHandler)) else set()
        known |= {node.arg} if isinstance(node, ast.arg) else set()
        known |= {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
        known |= {(node.asname or node.name).partition(".")[0]} if isinstance(node, ast.alias) else set()
    unknown = {node.id for node in nodes if isinstance(node, ast.Name)} - known
    assert not unknown, f"the example of {path} does not import {', '.join(unknown)}"


@each
def test_errors_are_described(path):
    has = bool(re.search(r"^Raises:\n +[A-Z]\w+", said(path), re.M))
    assert has or not checks(ENTRIES[path]) or path in NO_ERRORS, f"{path} needs Raises, or a reason in NO_ERRORS"
    assert not (has and path in NO_ERRORS), f"{path} has Raises: take it out of NO_ERRORS"


@each
def test_a_source_is_named(path):
    module, _, name = path.rpartition(".")
    has, own = bool(re.search(r"^Reference: \S", said(path), re.M)), name in OWN.get(module, ())
    assert has or own or module == "scoresde.testing", f"{path} needs a Reference, or a place in OWN"
    assert not (has and own), f"{path} has a Reference: take it out of OWN"


def test_exempt_names_exist():
    own = {f"{module}.{name}" for module, names in OWN.items() for name in names}
    assert {*NO_EXAMPLE, *NO_ERRORS, *own} <= set(ENTRIES)


def test_a_gap_is_seen(monkeypatch):
    """Each rule fails for a name that breaks it."""

    def bare(x):
        """Says nothing"""

    monkeypatch.setitem(ENTRIES, "scoresde.bare", bare)
    for rule in (
        test_first_line_is_a_sentence, test_parameters_are_described, test_an_example_is_there,
        test_errors_are_described, test_a_source_is_named,
    ):  # fmt: skip
        with pytest.raises(AssertionError, match="bare"):
            rule("scoresde.bare")
