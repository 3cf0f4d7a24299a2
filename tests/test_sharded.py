"""Weights spread over processes (FSDP2): trained, kept and taken up as one process would.

accelerate refuses FSDP on a CPU, so that torch's own fully_shard stands in its place here, behind the same interface.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from scoresde import VP, Model, fit, load, networks, targets
from scoresde.training import resume
from scoresde.training.team import Alone

ROOT = Path(__file__).parents[1]

SCRIPT = """
import sys
from tests.test_sharded import Sharded, train
team = Sharded()
train(sys.argv[1], 12, team)
train(sys.argv[1], 20, team)
team.close()
"""


class Sharded(Alone):
    """Processes that hold a part of every weight each."""

    def __init__(self):
        super().__init__(torch.device("cpu"))
        dist.init_process_group("gloo")
        self.num_processes, self.process_index = dist.get_world_size(), dist.get_rank()
        self.is_main_process = self.process_index == 0

    def prepare(self, net, optimizer):
        from torch.distributed.fsdp import fully_shard

        fully_shard(net)
        optimizer.param_groups[0]["params"] = list(net.parameters())
        assert all(hasattr(p, "full_tensor") for p in net.parameters())
        return net, optimizer

    def clip_grad_norm_(self, weights, norm):
        return super().clip_grad_norm_(weights, norm).full_tensor()

    def gather(self, values):
        found = [torch.empty_like(values) for _ in range(self.num_processes)]
        dist.all_gather(found, values)
        return torch.cat(found)

    def reduce(self, value):
        dist.all_reduce(value)
        return value

    def wait_for_everyone(self):
        dist.barrier()

    def close(self):
        dist.destroy_process_group()


def train(folder, stop=20, team=None):
    """20 steps in float64, left after step `stop`."""
    torch.manual_seed(0)
    net = networks.MLP(2, width=16, blocks=1).double()
    rows = targets.moons(200, torch.Generator().manual_seed(0)).double()
    source = torch.Generator().manual_seed(1)
    records = fit(
        Model(net, VP(), "v"), rows, 20, batch_size=31, accelerator=team, every=10, checkpoints=folder, generator=source
    )
    for record in records:
        if record.step == stop:
            return


@pytest.mark.slow
def test_spread_weights_train_and_go_on_as_whole_ones(tmp_path):
    """After a stop at step 12, taken up at step 10: weights, average and optimizer to 1e-9 of one process."""
    train(tmp_path / "one")
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    words = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script), str(tmp_path / "two")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    (one, left), (two, right) = (resume.read(resume.newest(tmp_path / name)) for name in ("one", "two"))
    assert max((one[k] - two[k]).abs().max() for k in one) < 1e-9
    for i, part in left["optimizer"]["state"].items():
        for name, value in part.items():
            assert (value - right["optimizer"]["state"][i][name]).abs().max() < 1e-9
    mine, theirs = (load(tmp_path / name).net.state_dict() for name in ("one", "two"))
    assert max((mine[k] - theirs[k]).abs().max() for k in mine) < 1e-9
