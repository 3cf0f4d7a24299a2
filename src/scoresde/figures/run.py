"""Every lesson in a process of its own, one after the other; what came of each is kept in the folder."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from scoresde import _checks
from scoresde._files import whole
from scoresde.explore import lessons
from scoresde.figures import page

LESSONS = (
    "forward_process", "score_field", "walk_back", "steps_vs_quality", "guidance_sweep",
    "mnist_exercise", "one_score_many_names", "sde_vs_ode_errors", "langevin_mixing", "flow_vs_diffusion",
)  # fmt: skip


@dataclass(frozen=True)
class Record:
    """What came of a lesson. error: the last line of what it said, where it failed."""

    command: str
    seconds: float
    error: str = ""


def figures(
    out: Path = Path("runs/figures"), only: list[Annotated[str, *LESSONS]] | None = None, quick: bool = False,
    device: str = "cpu",
) -> int:  # fmt: skip
    """Run the ten lessons: each draws a figure and prints a table that ends in a measured claim.

    Writes NAME.png, NAME-dark.png and NAME.txt of each, and index.html, which shows all that is in the folder. Ten
    minutes on two cores. A lesson that fails is named, the others go on, and the exit code is 1.

    Args:
        out: the folder to write to.
        only: some of them, by their names.
        quick: smaller, to see that they run.
        device: cpu, cuda, ...
    """
    names = LESSONS if only is None else [_checks.choice("lesson", name, LESSONS) for name in only]
    home, begun, failed = lessons.folder(), time.monotonic(), []
    out.mkdir(parents=True, exist_ok=True)
    records = _kept(out)
    for name in dict.fromkeys(names):
        record = run(home / f"{name}.py", out, quick, device)
        records[name] = record
        failed += [name] if record.error else []
        _keep(out, records, home)
        said = f"FAILED: {record.error}" if record.error else page.headline(home / f"{name}.py")
        print(f"{name:<22}{record.seconds:4.0f} s  {said}", flush=True)
    print(f"{time.monotonic() - begun:.0f} s in all; see {out}/index.html")
    if failed:
        print(f"scoresde figures: {len(failed)} failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def run(path: Path, out: Path, quick: bool, device: str) -> Record:
    """Run one lesson; whatever happens to it, here it is a record."""
    asked = ["--out", str(out), *(["--quick"] if quick else []), *(["--device", device] if device != "cpu" else [])]
    begun = time.monotonic()
    done = subprocess.run(
        [sys.executable, str(path), *asked],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        stdin=subprocess.DEVNULL,
        env=os.environ | {"PYTHONUTF8": "1"},
    )
    error = ""
    if done.returncode:
        lines = done.stderr.split("\n")
        said = next((line.strip() for line in reversed(lines) if line.strip()), f"exit code {done.returncode}")
        error = f"ended by signal {-done.returncode}" if done.returncode < 0 else said
    elif not all((out / f"{path.stem}{ending}").exists() for ending in (".png", "-dark.png", ".txt")):
        error = f"it ended well, but wrote no {path.stem}.png, {path.stem}-dark.png and {path.stem}.txt"
    checkout = path.is_relative_to(Path.cwd())
    call = ["python", str(path.relative_to(Path.cwd()))] if checkout else ["scoresde", "figures", "--only", path.stem]
    return Record(shlex.join([*call, *asked]), round(time.monotonic() - begun, 1), error)


def _kept(out: Path) -> dict[str, Record]:
    """What earlier commands left in the folder."""
    try:
        found = json.loads((out / "index.json").read_text(encoding="utf-8"))
        return {name: Record(**found[name]) for name in LESSONS if name in found}
    except (FileNotFoundError, ValueError, TypeError):  # none, or not of this version
        return {}


def _keep(out: Path, records: Mapping[str, Record], home: Path) -> None:
    """Write what is known of the lessons, for the next command, and the page, for readers."""
    ordered = {name: records[name] for name in LESSONS if name in records}
    with whole(out / "index.json") as draft:
        draft.write_text(json.dumps({k: asdict(v) for k, v in ordered.items()}, indent=1) + "\n", encoding="utf-8")
    page.write(out, ordered, home)
