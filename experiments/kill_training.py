"""A training killed at random moments, again and again: nothing is lost, nothing damaged is loaded, no bit differs.

A training with a checkpoint every few steps runs in a process of its own. It is killed by SIGKILL at a random moment,
often while a checkpoint is being written; then the newest checkpoint must load, and the training goes on from it. When
it has ended, weights, averaged weights, optimizer and place in the data must equal those of a training never stopped.

    python experiments/kill_training.py [--kills 50] [--steps 20000] [--seed 0]
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from scoresde import VP, Model, fit, load, networks, targets
from scoresde.training import resume
from scoresde.training.checkpoint import read_tensors

EVERY = 5


def work(folder: Path, steps: int) -> None:
    """The training: small steps, many checkpoints, so that kills often meet one half-written."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = targets.moons(1000, torch.Generator().manual_seed(0))
    model = Model(network(), VP(), "v")
    source = torch.Generator().manual_seed(0)
    for _ in fit(model, data, steps, batch_size=64, checkpoints=folder, every=EVERY, generator=source):
        pass


def network() -> torch.nn.Module:
    """An MLP with dropout, so that the global source of randomness matters too."""
    net = networks.MLP(2, width=32)
    net.leave = torch.nn.Sequential(torch.nn.Dropout(0.1), net.leave)  # pyright: ignore[reportAttributeAccessIssue]
    return net


def start(folder: Path, steps: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, __file__, "--work", str(folder), "--steps", str(steps)])


def kill(folder: Path, steps: int, kills: int, seed: int) -> tuple[int, int]:
    """Kill the training, and go on, until it has ended; returns how often, and how often with a file half-written.

    Raises:
        AssertionError, ValueError, UserWarning: a checkpoint lost or damaged.
    """
    moments, met = random.Random(seed), 0
    with tqdm(total=kills, unit="kill", disable=None) as bar:
        for done in range(kills + 1):
            before = latest(folder)
            process = start(folder, steps)
            while process.poll() is None and (done == kills or latest(folder) == before):
                time.sleep(0.01)
            if process.poll() is None:
                time.sleep(moments.uniform(0.0, 0.5))
                process.send_signal(signal.SIGKILL)
            if process.wait() == 0:
                return done, met
            bar.update()
            assert process.returncode == -signal.SIGKILL, "the training failed"
            met += bool(list(folder.glob(".*.draft")))
            assert latest(folder) > before, "a checkpoint was lost"
            resume.read(found := resume.newest(folder))  # warns if the newest is damaged: an error here
            load(found, net=network())
    raise AssertionError("the training did not end")


def latest(folder: Path) -> int:
    """The step of the newest checkpoint, 0 without any."""
    found = resume.steps_in(folder)
    return int(found[0].name[5:]) if found else 0


def differences(one: Any, other: Any, name: str = "") -> list[str]:
    """Where two nested states differ in a single bit."""
    if isinstance(one, (list, tuple)):
        one, other = dict(enumerate(one)), dict(enumerate(other))
    if isinstance(one, dict):
        keys = {*one, *other}
        return [d for key in keys for d in differences(one.get(key), other.get(key), f"{name}/{key}")]
    same = torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other
    return [] if same else [name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--steps", type=int, default=30000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        return work(options.work, options.steps)
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as place:
        torn, calm = Path(place) / "killed", Path(place) / "calm"
        done, met = kill(torn, options.steps, options.kills, options.seed)
        print(f"killed {done} times, {met} with a checkpoint half-written; none lost, none damaged")
        if start(calm, options.steps).wait():
            raise SystemExit("the training failed")
        ends = [
            (*resume.read(found), read_tensors(found / "model.safetensors"))
            for found in map(resume.newest, (torn, calm))
        ]
        found = differences(*ends)
    print("the same to the last bit as without a stop" if not found else f"DIFFERENT: {', '.join(found)}")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()
