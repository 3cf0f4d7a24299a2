"""The page of the layout: every file of the package and of the experiments, by its first line.

python docs/layout.py > docs/layout.md
"""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "scoresde"
LAYERS = [
    # (what stands there, parts: files or folders of the package); imports go to earlier rows and the same one
    ("Input, files", ("_checks", "_files", "_fingerprint")),
    ("How data is noised, and what is predicted", ("process", "prediction")),
    ("Units of the data", ("scaling",)),
    ("Models, and exact ones", ("model", "targets")),
    ("Equations, and the flow's integrator", (
        "dynamics", "solve", "flow", "divergence", "adaptation", "density", "adjoint",
    )),
    ("Sampling, likelihood, training", ("samplers", "likelihood", "training")),
    ("From models to models, latents", ("latent", "guidance")),
    ("Data, pictures, checks, views for other packages", ("data", "plots", "testing", "distribution", "estimator")),
    ("Jobs, each a folder of results", ("demo", "runs", "explore", "figures")),
    ("Grids of jobs", ("compare",)),
    ("The command line", ("cli",)),
    ("The top", ("__main__", "__init__")),
]  # fmt: skip
LEAVES = ("Leaves: torch alone, imported from anywhere", ("networks", "metrics"))


def files(part: str) -> list[Path]:
    """A part's files: its own, or those of its folder, the folder's first."""
    folder = PACKAGE / part
    if not folder.is_dir():
        return [folder.with_suffix(".py")]
    return sorted(folder.rglob("*.py"), key=lambda path: (path.parent, path.name != "__init__.py", path.name))


def row(path: Path, root: Path) -> str:
    said = (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").partition("\n\n")[0]
    return f"| `{path.relative_to(root)}` | {' '.join(said.split())} |"


def table(paths: list[Path], root: Path) -> str:
    return "\n".join(["| file | what it is |", "|---|---|", *(row(path, root) for path in paths)])


def page() -> str:
    """The page, as Markdown."""
    parts = [
        "# What is where",
        "The package in layers: a file imports from its own layer and those above it, never from below\n"
        "(`tests/test_layers.py`). `python docs/layout.py` prints this page; a test compares it with the tree.",
    ]
    for title, names in (*LAYERS, LEAVES):
        parts += [f"## {title}", table([path for name in names for path in files(name)], PACKAGE)]
    experiments = sorted((ROOT / "experiments").glob("*.py"))
    parts += ["## Experiments", "One file a figure, a table or a benchmark, by public names only."]
    parts += [table(experiments, ROOT)]
    parts += [
        "## Tests",
        "`tests/test_NAME.py` is about what its name says; exact problems that many use are in `problems.py`,\n"
        "`guides.py` and `scoresde.testing`. Marked `slow`: above a few seconds; `gpu`: needs an accelerator.",
    ]
    return "\n\n".join(parts) + "\n"


if __name__ == "__main__":
    print(page(), end="")
