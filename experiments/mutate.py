"""Which one-change mistakes in the core the tests would miss: mutation testing.

    python experiments/mutate.py [--module process] [--sample 40] [--seed 0] [--jobs 1] [--keep FILE] [--list]

A mutant is the tree with one change in one file: an operator for another, a constant moved, a sign dropped, two
arguments exchanged, a condition turned, a statement left out. The tests that cover the file run on a copy of the tree
in a temporary folder; a mutant is killed if one of them fails, or if they need several times the processor's time that
they need on the tree as it is. Those that survive are listed with their places and reasons: nobody could tell the
change (EQUIVALENT, not counted), a constant of tuning that may move a little (TUNING, counted), or a gap in the tests.
"""

from __future__ import annotations

import argparse
import ast
import copy
import hashlib
import math
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.queues import SimpleQueue
from pathlib import Path
from queue import Queue

from survivors import EQUIVALENT, TUNING

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = Path("src/scoresde")
MODULES = {
    # name: (files, the tests that are quick and kill most, all others that cover the files)
    "process": (
        ("process/base.py", "process/continuous.py", "process/chain.py"),
        ("tests/test_process.py", "src/scoresde/process"),
        ("tests/test_bad_input.py", "tests/test_times.py", "tests/test_kit_builtin.py::test_processes"),
    ),
    "prediction": (
        ("prediction.py",),
        ("tests/test_prediction.py", "src/scoresde/prediction.py"),
        ("tests/test_model.py", "tests/test_bad_input.py", "tests/test_kit_builtin.py::test_predictions"),
    ),
    "exponential": (
        ("samplers/exponential.py", "samplers/quadrature.py"),
        ("tests/test_exponential.py",),
        ("tests/test_exponential_orders.py", "tests/test_multistep.py"),
    ),
    "likelihood": (
        ("density.py", "adaptation.py", "likelihood/ode.py"),
        (
            "tests/test_adaptation.py",
            "tests/test_walk.py",
            "tests/test_likelihood.py::test_a_gaussian_is_exact_in_few_steps",
            "tests/test_density.py::test_wrong_input_is_named",
            "tests/test_density.py::test_calls_are_those_the_network_sees",
        ),
        (
            "tests/test_likelihood.py::test_conditions_of_single_samples_stay_with_them",
            "tests/test_likelihood.py::test_gradient_in_x_is_the_score",
            "tests/test_likelihood.py::test_without_moments_the_prior_is_off_by_what_it_should",
            "tests/test_likelihood.py::test_a_tolerance_out_of_reach_is_told_of_the_samples_concerned",
            "tests/test_density.py::test_nodes_take_the_divergence_at_few_places",
            "tests/test_density.py::test_densities_at_a_time",
            "tests/test_density.py::test_a_thin_density_is_told_of",
            "tests/test_density.py::test_samples_come_with_their_density",
        ),
    ),
}
SLACK, LEAST = 4.0, 20.0
"""A mutant hangs if its tests take more seconds of a processor than this times the unchanged tree's, and than these."""

KILLED, SURVIVED, HUNG = "killed", "survived", "hung"
GAP = "a gap"
BROKEN = 99
"""What the process of the tests leaves with if it did not get as far as testing this tree."""

SYMMETRIC = {"max", "min", "maximum", "minimum", "hypot", "logaddexp", "isinstance"}
"""Calls whose arguments are not exchanged: nothing changes, or no call is left."""

OPERATORS = {
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.Pow: ast.Mult,
    ast.FloorDiv: ast.Div, ast.Mod: ast.Mult, ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd,
}  # fmt: skip
COMPARISONS = {
    ast.Lt: (ast.LtE, ast.Gt), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.Lt), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,),
}  # fmt: skip
NAMES = {
    "min": "max", "max": "min", "clamp_min": "clamp_max", "clamp_max": "clamp_min", "any": "all", "all": "any",
    "minimum": "maximum", "maximum": "minimum", "floor": "ceil", "argmax": "argmin", "exp": "expm1", "expm1": "exp",
}  # fmt: skip


@dataclass(frozen=True)
class Mutant:
    """One change: its module and file, the bytes that go and what comes in their place."""

    module: str
    path: Path
    line: int
    start: int
    end: int
    before: str
    after: str
    changed: str
    copy: int

    @property
    def reason(self) -> str:
        """Why it survives, as far as that is known."""
        key = (str(self.path.relative_to(PACKAGE)), self.changed)
        return (
            f"equivalent: {EQUIVALENT[key]}" if self.equivalent else f"tuning: {TUNING[key]}" if key in TUNING else GAP
        )

    @property
    def equivalent(self) -> bool:
        return (str(self.path.relative_to(PACKAGE)), self.changed) in EQUIVALENT

    @property
    def key(self) -> str:
        """What tells it from all others, and stays as long as its line does."""
        return f"{self.path.relative_to(PACKAGE)} {self.copy} {self.changed}"

    def rank(self, seed: int) -> bytes:
        """Its place in the draw, which other mutants do not move."""
        return hashlib.sha256(f"{seed} {self.key}".encode()).digest()

    def applied(self, source: bytes) -> bytes:
        return source[: self.start] + self.after.encode() + source[self.end :]

    def __str__(self) -> str:
        before, after = (" ".join(text.split())[:70] for text in (self.before, self.after))
        return f"{self.path.relative_to(PACKAGE)}:{self.line}: {before}  ->  {after}"


def mistakes(node: ast.AST) -> Iterator[ast.AST]:
    """What a node may become by one mistake."""

    def with_(**fields: object) -> ast.AST:
        other = copy.copy(node)
        for name, value in fields.items():
            setattr(other, name, value)
        return other

    match node:
        case ast.BinOp(op=op) | ast.AugAssign(op=op) if type(op) in OPERATORS:
            yield with_(op=OPERATORS[type(op)]())
        case ast.UnaryOp(op=ast.USub() | ast.Not() | ast.Invert(), operand=operand):
            yield operand
        case ast.BoolOp(op=op):
            yield with_(op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.Compare(ops=[op], comparators=[_]):
            yield from (with_(ops=[other()]) for other in COMPARISONS[type(op)])
        case ast.Constant(value=bool(value)):
            yield with_(value=not value)
        case ast.Constant(value=int(value)):
            yield from (with_(value=other) for other in (value + 1, value - 1))
        case ast.Constant(value=float(value)):
            yield from (with_(value=other) for other in {2 * value, value + 1} - {value})
        case ast.IfExp(body=body, orelse=orelse):
            yield with_(body=orelse, orelse=body)
        case ast.Name(id=name) if name in NAMES:
            yield with_(id=NAMES[name])
        case ast.Attribute(attr=name) if name in NAMES:
            yield with_(attr=NAMES[name])
        case ast.Call(args=[first, second, *rest]) if (
            not isinstance(second, ast.Starred) and called(node) not in SYMMETRIC
        ):
            yield with_(args=[second, first, *rest])
    if isinstance(node, ast.AugAssign | ast.Expr) and isinstance(node.value, ast.Call | ast.BinOp | ast.Name):
        yield ast.Pass()


def called(call: ast.Call) -> str:
    """The last name of what is called."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def code(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below that is code which runs: no annotations, messages of errors or names of types."""
    if isinstance(node, ast.JoinedStr | ast.Raise):
        return
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not (isinstance(node, ast.Module) and isinstance(child, ast.Assign)):
                yield child
                yield from code(child)
            elif isinstance(child, ast.Assign) and not isinstance(child.value, ast.Subscript | ast.BinOp):
                yield from code(child)  # tables and constants of the module, but not aliases of types


def mutants(module: str, root: Path = ROOT) -> list[Mutant]:
    """All mutants of a module."""
    found: list[Mutant] = []
    seen: Counter[tuple[Path, str]] = Counter()
    for name in MODULES[module][0]:
        path = PACKAGE / name
        source = (root / path).read_bytes()
        starts, tried = [0], set()
        for line in source.splitlines(keepends=True):
            starts.append(starts[-1] + len(line))
        for node in code(ast.parse(source)):
            if not hasattr(node, "lineno"):
                continue
            start = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            for other in mistakes(node):
                after = ast.unparse(other) if isinstance(node, ast.stmt) else f"({ast.unparse(other)})"
                if (start, after) in tried or not compiles(source[:start] + after.encode() + source[end:]):
                    continue
                tried.add((start, after))
                lines = source[starts[node.lineno - 1] : start], after.encode(), source[end : starts[node.end_lineno]]
                changed = " ".join(b"".join(lines).decode().split())
                before = source[start:end].decode()
                found.append(Mutant(module, path, node.lineno, start, end, before, after, changed, seen[path, changed]))
                seen[path, changed] += 1
    return found


def compiles(source: bytes) -> bool:
    try:
        compile(source, "mutant", "exec")
    except SyntaxError:
        return False
    return True


class Hurried:
    """A plugin for pytest: hypothesis without chance, and content with any example that fails."""

    def pytest_configure(self) -> None:
        from hypothesis import Phase, settings

        phases = (Phase.explicit, Phase.generate)
        settings.register_profile("hurried", max_examples=200, derandomize=True, deadline=None, phases=phases)
        settings.load_profile("hurried")


def run_tests(root: str, tests: tuple[str, ...], limit: int, spent: SimpleQueue[float]) -> None:
    """In a process of its own, of at most `limit` seconds: leave with the code that pytest gives."""
    code = BROKEN
    try:
        resource.setrlimit(resource.RLIMIT_CPU, (limit, limit + 5))
        os.chdir(root)
        sys.dont_write_bytecode = True
        sys.path[:0] = [f"{root}/src", root]
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        import pytest

        result = pytest.main(["-x", "--tb=no", "-p", "no:cacheprovider", "-m", "not slow", *tests], plugins=[Hurried()])
        ours = sys.modules["scoresde"].__file__ or "" if "scoresde" in sys.modules else root
        spent.put(time.process_time())
        code = int(result) if ours.startswith(root) else BROKEN
    finally:
        os._exit(code)


def outcome(root: Path, tests: tuple[str, ...], limit: float = 3600.0) -> tuple[str, float]:
    """What tests say of the tree at `root`, and the processor's seconds that they took."""
    context = multiprocessing.get_context("forkserver")
    spent = context.SimpleQueue()
    process = context.Process(target=run_tests, args=(str(root), tests, math.ceil(limit), spent))
    process.start()
    process.join(20 * limit)  # one that waits for itself spends nothing
    if process.is_alive():
        process.kill()
        process.join()
    if process.exitcode in (-signal.SIGXCPU, -signal.SIGKILL):
        return HUNG, limit
    if process.exitcode not in (0, 1, 2):  # passed, failed, not even collected
        raise RuntimeError(f"{tests} did not run: pytest says {process.exitcode}")
    return (KILLED if process.exitcode else SURVIVED), spent.get()


def judge(mutant: Mutant, root: Path, limits: Sequence[float]) -> str:
    """The outcome of one mutant, made in the copy at `root` and undone."""
    path = root / mutant.path
    source = path.read_bytes()
    for compiled in (path.parent / "__pycache__").glob(f"{path.stem}.*"):
        compiled.unlink()
    path.write_bytes(mutant.applied(source))
    try:
        for tests, limit in zip(MODULES[mutant.module][1:], limits):
            if (found := outcome(root, tests, limit)[0]) != SURVIVED:
                return found
        return SURVIVED
    finally:
        path.write_bytes(source)


def copied(folder: Path) -> Path:
    """The tree as tests need it, copied below `folder`."""
    for part in ("src", "tests", "experiments", "docs"):
        shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__", "*.png"))
    for part in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / part, folder / part)
    return folder


def run(chosen: list[Mutant], jobs: int = 1, keep: Path | None = None) -> dict[Mutant, str]:
    """The outcome of every mutant, told as it comes; of those in the file `keep` only gaps are tried again."""
    lines = keep.read_text().splitlines() if keep and keep.exists() else []
    outcomes = dict(reversed(line.split(" ", 1)) for line in lines)
    before = {m.key: o for m in chosen if (o := outcomes.get(m.key)) and (o != SURVIVED or m.reason != GAP)}
    with tempfile.TemporaryDirectory() as scratch:
        roots: Queue[Path] = Queue()
        for i in range(jobs):
            roots.put(copied(Path(scratch) / str(i)))
        limits: dict[str, list[float]] = {}
        for module in sorted({m.module for m in chosen if m.key not in before}):
            root = roots.get()
            found = [outcome(root, tests) for tests in MODULES[module][1:]]
            roots.put(root)
            if any(kind != SURVIVED for kind, _ in found):
                raise RuntimeError(f"the tests of {module!r} fail on the tree as it is: {[kind for kind, _ in found]}")
            limits[module] = [max(LEAST, SLACK * seconds) for _, seconds in found]
            print(f"{module}: its tests take {' + '.join(f'{seconds:.0f} s' for _, seconds in found)}", flush=True)

        def one(mutant: Mutant) -> str:
            if mutant.key in before:
                return before[mutant.key]
            root = roots.get()
            try:
                result = judge(mutant, root, limits[mutant.module])
            finally:
                roots.put(root)
            print(f"{result:9}{mutant}", flush=True)
            if keep:
                with keep.open("a") as file:
                    file.write(f"{result} {mutant.key}\n")
            return result

        with ThreadPoolExecutor(jobs) as pool:
            return dict(zip(chosen, pool.map(one, chosen)))


def report(outcomes: dict[Mutant, str], possible: Counter[str]) -> str:
    """A table of counts, and who survived. Equivalent mutants are counted apart, and not in the rate."""
    columns = ("possible", "tried", "killed", "hung", "survived", "equivalent")
    lines = [f"{'module':13}" + "".join(f"{name:>11}" for name in (*columns, "rate"))]
    modules = sorted({m.module for m in outcomes})
    for module in (*modules, "all") if len(modules) > 1 else modules:
        mine = {m: o for m, o in outcomes.items() if module in (m.module, "all")}
        same = sum(o == SURVIVED and m.equivalent for m, o in mine.items())
        killed, hung, survived = (sum(o == kind for o in mine.values()) for kind in (KILLED, HUNG, SURVIVED))
        size = sum(possible[m] for m in modules) if module == "all" else possible[module]
        counts = (size, len(mine), killed, hung, survived - same, same)
        rate = (killed + hung) / max(1, len(mine) - same)
        lines.append(f"{module:13}" + "".join(f"{n:11}" for n in counts) + f"{rate:11.1%}")
    lines += ["", "survived:"]
    lines += [f"  {m}\n      {m.changed[:150]}\n      {m.reason}" for m, o in outcomes.items() if o == SURVIVED]
    wrong = [f"  {m}" for m, o in outcomes.items() if o != SURVIVED and m.equivalent]
    return "\n".join([*lines, *(["", "called equivalent, but seen:"] if wrong else []), *wrong])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--module", choices=sorted(MODULES), help="one of them; all if not given")
    parser.add_argument("--sample", type=int, help="so many mutants a module, drawn at random; all if not given")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--jobs", type=int, default=1, help="copies of the tree that run side by side")
    parser.add_argument("--keep", type=Path, metavar="FILE", help="keep outcomes there; of those try only gaps again")
    parser.add_argument("--list", action="store_true", help="list the mutants and run none")
    args = parser.parse_args()
    found = {module: mutants(module) for module in ([args.module] if args.module else MODULES)}
    possible = Counter({module: len(mine) for module, mine in found.items()})
    chosen = [m for mine in found.values() for m in sorted(mine, key=lambda m: m.rank(args.seed))[: args.sample]]
    if args.list:
        print(*sorted(chosen, key=lambda m: (m.module, m.path, m.line)), sep="\n")
        print(*(f"{module}: {n} mutants" for module, n in possible.items()), sep="\n")
        return
    os.environ["PYTHONWARNINGS"] = (
        "ignore::UserWarning:multiprocessing.resource_tracker"  # tqdm's lock, in tests that left
    )
    multiprocessing.set_forkserver_preload(["torch", "scipy.interpolate", "scipy.stats", "torchdiffeq", "torchsde"])
    print("\n" + report(run(chosen, args.jobs, args.keep), possible))


if __name__ == "__main__":
    main()
