"""What a comparison leaves: the table, the CSV file, the pictures, and the report."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor

from scoresde._files import whole
from scoresde.compare import page, pareto, pictures
from scoresde.compare.cell import WITH_FEATURES
from scoresde.compare.problem import Problem
from scoresde.compare.row import Row
from scoresde.compare.table import table, write_csv
from scoresde.metrics import Features
from scoresde.runs.folder import pictured, waiting

TASKS = {"label": "their labels", "cluster": "which of ten clusters they lie in"}
"""What a network of features was trained to tell."""


def features(out: Path, problem: Problem, quiet: bool) -> Any:
    """The problem's features, if it has some; what they are worth is kept in features.json."""
    begun = time.monotonic()
    with waiting("training a network of features", quiet):
        found = problem.features()
    if found is not None:
        own = isinstance(found, Features)
        worth = {"task": found.task, "accuracy": found.accuracy, "chance": found.chance} if own else {}
        with whole(out / "features.json") as draft:
            draft.write_text(json.dumps({**worth, "seconds": time.monotonic() - begun}) + "\n")
    return found


def write(
    out: Path, problem: Problem, rows: list[Row], shown: dict[tuple[str, str], Tensor], metrics: Sequence[str],
    config: str, quiet: bool,
) -> None:  # fmt: skip
    """Print the table, and write it with its pictures into the folder."""
    with whole(out / "metrics.jsonl") as draft:
        plain = [{k: v for k, v in asdict(row).items() if k != "seconds"} for row in rows]  # the same in every run
        draft.write_text("".join(json.dumps(line) + "\n" for line in plain))
    write_csv(out / "results.csv", rows, metrics)
    drawn: dict[str, Path] = {}
    pictured(lambda: pareto.draw(rows, metrics[0], out / "pareto.png"), quiet)
    pictured(lambda: drawn.update(pictures.draw(out / "pictures", problem.real, shown)), quiet)
    about = {"config.yaml": config, "environment.txt": (out / "environment.txt").read_text()}
    said = notes(problem, out / "features.json" if set(metrics) & set(WITH_FEATURES) else None)
    page.write(out / "report.html", f"scoresde compare: {problem.name}", rows, metrics, drawn, about, said)
    print(table(rows, metrics))
    print(f"\nwrote results.csv, pareto.png and report.html to {out}/")


def notes(problem: Problem, features: Path | None) -> list[str]:
    """What the columns say; features: the file that says what those of the metrics are worth."""
    n, other = len(problem.real), "of those trained on" if problem.least is None else "others"
    found = [
        f"Every metric holds {n} samples against {n} real ones that no model was trained on; ± is one standard error. "
        f"The floor is what as many {other} score.",
        "Flow error: root mean square distance a dimension between a deterministic sampler's end points and those of "
        "the model's own probability flow, solved to high accuracy from the same starts; others have none.",
        "NFE: calls of the network for one sample, counted.",
    ]
    if features is not None and features.exists():
        worth = json.loads(features.read_text())
        network = (
            f"a network trained on these data in {worth['seconds']:.1f} s to tell {TASKS[worth['task']]}: "
            f"{worth['accuracy']:.1%} right on held-out data, {worth['chance']:.1%} by chance"
            if "task" in worth
            else "Inception"
        )
        found.append(f"Fréchet distance, precision and recall are of features, by {network}.")
    if problem.least is not None:
        found.append("bits/dim of the target itself on the same points: {:.4f} ± {:.4f}.".format(*problem.least))
    return found
