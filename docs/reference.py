"""The reference: a page for each part of the package, an entry for each public name, from its docstring."""

from __future__ import annotations

import ast
import html
import inspect
import re
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import equations

PAGES = {
    # page: (module, what it is of, names, or None for all of the module's __all__)
    "processes": ("scoresde", "Processes and predictions", (
        "Process", "VP", "SubVP", "VE", "EDM", "Cosine", "Sigmoid", "RectifiedFlow", "Discrete", "ddpm", "PREDICTIONS",
        "convert",
    )),
    "model": ("scoresde", "Models and equations", (
        "Model", "Count", "Dynamics", "Forward", "Reverse", "Langevin", "solve", "distribution", "ScoreDensity",
    )),
    "sampling": ("scoresde", "Sampling", ("sample", "encode", "decode", "round_trip", "interpolate")),
    "samplers": ("scoresde.samplers", "Samplers", None),
    "grids": ("scoresde.samplers.grids", "Grids of times", (
        "graded", "uniform", "logsnr", "karras", "quadratic", "leading", "trailing",
    )),
    "likelihood": ("scoresde.likelihood", "Likelihood", (
        "log_prob", "LogProb", "elbo", "Elbo", "vlb", "Vlb", "bits_per_dim", "BitsPerDim", "fit_dequantizer", "Uniform",
        "TruncatedNormal", "Variational",
    )),
    "guidance": ("scoresde.guidance", "Guidance", None),
    "training": ("scoresde.training", "Training", None),
    "targets": ("scoresde.targets", "Targets", None),
    "networks": ("scoresde.networks", "Networks", None),
    "metrics": ("scoresde.metrics", "Metrics", None),
    "data": ("scoresde.data", "Data", None),
    "scaling": ("scoresde.scaling", "Scaling", ("Scaling",)),
    "testing": ("scoresde.testing", "Testing", None),
    "strategies": ("scoresde.testing.strategies", "Strategies", (
        "processes", "times", "predictions", "states", "mixtures", "grids",
    )),
    "runs": ("scoresde.runs", "Runs", ("train", "sample", "likelihood")),
    "compare": ("scoresde.compare", "Comparisons", None),
}  # fmt: skip

WIDTH = 80
"""Of a signature on one line."""

ARGUMENTS = ("t_max", "t_min")
"""Names of attributes that look like formulas."""

SECTIONS = ("Args", "Returns", "Raises", "Example", "Reference", "References")


def write(folder: Path) -> None:
    """Write the pages into a folder."""
    folder.mkdir(exist_ok=True)
    for page, (module, title, names) in PAGES.items():
        home = import_module(module)
        names = tuple(home.__all__) if names is None else names
        entries = [
            entry(f"{module}.{name}", getattr(home, name))
            for name in names
            if not inspect.ismodule(getattr(home, name))
        ]
        (folder / f"{page}.md").write_text(f"# {title}\n\n" + "\n\n".join(entries) + "\n", encoding="utf-8")
    (folder / "properties.md").write_text(properties(), encoding="utf-8")
    listed = "\n".join([*PAGES, "properties"])
    (folder / "index.md").write_text(
        "# Reference\n\nEvery public name, from its docstring. `(B, *)` is a batch of B samples of any shape."
        f"\n\n```{{toctree}}\n:maxdepth: 2\n\n{listed}\n```\n",
        encoding="utf-8",
    )


def properties() -> str:
    """What the conformance kit checks."""
    lines = ["# Properties", "What the kit checks of each kind of part ([extending](../extending.md))."]
    for kind, rows in import_module("scoresde.testing").PROPERTIES.items():
        lines += [f"## {kind.capitalize()}"]
        for row in rows:
            said = (("Shown by", row.proof), ("If it fails", row.change))
            lines += [f"**{escaped(row.name)}.** {escaped(row.meaning)}"]
            lines += ["\n".join(f"- *{label}*: {escaped(text)}" for label, text in said)]
    return "\n\n".join(lines) + "\n"


def entry(path: str, thing: Any) -> str:
    """A name with its signature, what its docstring says, and what its public methods do."""
    module, _, name = path.rpartition(".")
    text = inspect.getdoc(thing) if inspect.isclass(thing) or callable(thing) else None
    if text is None:
        return "\n\n".join([f"## {name}", f"```python\n{path} = {shown(thing)}\n```", escaped(below(module, name))])
    lines = [f"## {name}", f"```python\n{path}{signature(thing)}\n```", body(text, arguments(thing))]
    if inspect.isclass(thing):
        for key, member in vars(thing).items():
            if key.startswith("_") or not documented(member) or not (said := inspect.cleandoc(member.__doc__ or "")):
                continue
            call = signature(member) if callable(member) else ""
            lines += [f"### {key}", f"```python\n{name}.{key}{call}\n```", body(said, arguments(member))]
    return "\n\n".join(lines)


def below(module: str, name: str) -> str:
    """What is written below a table, in the file that makes it."""
    home = Path(import_module(module).__file__ or "")
    for path in sorted(home.parent.rglob("*.py")) if home.name == "__init__.py" else [home]:
        for one, two in pairwise(ast.parse(path.read_text(encoding="utf-8")).body):
            made = one.targets if isinstance(one, ast.Assign) else [getattr(one, "target", None)]
            named = any(isinstance(target, ast.Name) and target.id == name for target in made)
            if named and isinstance(two, ast.Expr) and isinstance(two.value, ast.Constant):
                return " ".join(inspect.cleandoc(str(two.value.value)).split())
    return ""


def documented(member: Any) -> bool:
    return (
        inspect.isfunction(member)
        or isinstance(member, (property, classmethod, staticmethod))
        or hasattr(member, "func")
    )


def shown(thing: Any) -> str:
    return "{" + ", ".join(f"{key!r}: ..." for key in thing) + "}" if isinstance(thing, dict) else repr(thing)


def signature(thing: Any) -> str:
    """As it is written, without self; of a class, without what it returns."""
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    kept = [plain(p) for p in found.parameters.values() if p.name != "self"]
    returned = found.empty if inspect.isclass(thing) else Bare.of(found.return_annotation)
    text = str(found.replace(parameters=kept, return_annotation=returned))
    if len(text) <= WIDTH:
        return text
    rows, before = [], None
    for p in kept:
        if p.kind is p.KEYWORD_ONLY and before not in (p.KEYWORD_ONLY, p.VAR_POSITIONAL):
            rows.append("*")
        rows.append(str(p))
        before = p.kind
    end = text[text.rindex(") -> ") :] if " -> " in text else ")"
    return "(\n" + "".join(f"    {row},\n" for row in rows) + end


def plain(p: inspect.Parameter) -> inspect.Parameter:
    """An argument with its annotation unquoted, and no long default."""
    default = p.default if p.default is p.empty or len(repr(p.default)) <= 40 else Bare("...")
    return p.replace(annotation=Bare.of(p.annotation), default=default)


class Bare(str):
    """An annotation that is written without quotes."""

    @classmethod
    def of(cls, annotation: Any) -> Any:
        return cls(annotation) if isinstance(annotation, str) else annotation

    def __repr__(self) -> str:
        return str(self)


def arguments(thing: Any) -> tuple[str, ...]:
    try:
        return tuple(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        return ()


def body(text: str, names: tuple[str, ...] = ()) -> str:
    """A docstring as Markdown: its sections under their names, its examples as code, its formulas as they stand.

    names: of the arguments; each gets a line of its own.
    """
    parts, section, rows = [], "", []
    for line in [*text.splitlines(), "Args:"]:
        if re.match(rf"(?:{'|'.join(SECTIONS)}):$|References?: ", line):
            parts.append(rendered(section, rows, names))
            section, _, rest = line.partition(":")
            rows = [rest.strip()] if rest.strip() else []
        else:
            rows.append(line)
    return "\n\n".join(filter(None, parts))


def rendered(section: str, rows: list[str], names: tuple[str, ...]) -> str:
    text = inspect.cleandoc("\n".join(rows)).strip()
    if not text:
        return ""
    if section == "Example":
        return f"```pycon\n{text}\n```"
    if section in ("Args", "Raises", "Returns"):
        said = " ".join(text.split())
        if section == "Args":
            known = "|".join(map(re.escape, names)) or "$^"
            said = re.sub(rf"(?:^|(?<=[.;)] ))((?:{known})(?:, (?:{known}))*): ", r"\n- `\1`: ", said).strip()
        return f"**{section}**\n\n{escaped(said)}"
    blocks = []
    for block in text.split("\n\n"):
        indented = all(line.startswith("    ") for line in block.splitlines())
        blocks.append(f"```text\n{inspect.cleandoc(block)}\n```" if indented else escaped(block))
    said = "\n\n".join(blocks)
    return f"*{section}*: {said}" if section else said


def escaped(text: str) -> str:
    """Text whose stars and brackets are no Markdown, and whose formulas are set, outside of code."""
    pieces = re.split(r"(`[^`]*`)", text)
    for i, piece in enumerate(pieces[::2]):
        pieces[2 * i] = re.sub(r"([*\[\]_|])", r"\\\1", equations.html(html.escape(piece, quote=False), ARGUMENTS))
    cited = r'<a href="../theory.html#eq-\2">theory, \1</a>'
    text = re.sub(r"docs/theory, (eq\. (\d+)(?:-\d+)?)", cited, "".join(pieces))
    return re.sub(r"(?<![\w.])(\d{4}\.\d{5})(?![\w.]*\d)", r'<a href="https://arxiv.org/abs/\1">\1</a>', text)
