"""The same seed gives the same bits: again, in another process, in any order, and where it can with other threads."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from scoresde import (
    VP,
    Model,
    RectifiedFlow,
    bits_per_dim,
    data,
    ddpm,
    elbo,
    fit,
    fit_dequantizer,
    guidance,
    log_prob,
    loss,
    metrics,
    networks,
    samplers,
    targets,
    vlb,
)  # fmt: skip
from scoresde._fingerprint import fingerprint
from scoresde.training import draw_times, loss_by_logsnr
from tests.extremes import SAMPLERS, short
from tests.problems import classes, mixture

ROOT = Path(__file__).parents[1]
MODEL = mixture().model(VP(), "v")


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def network(kind):
    """A small one with drawn weights, and the shape of its samples: large enough for several threads."""
    torch.manual_seed(0)
    net, shape = {
        "MLP": lambda: (networks.MLP(64, 256, 2), (64,)),
        "UNet": lambda: (networks.UNet((1, 16, 16), 16, (1, 2)), (1, 16, 16)),
        "DiT": lambda: (networks.DiT((1, 16, 16), width=64, blocks=2), (1, 16, 16)),
    }[kind]()
    for parameter in net.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    return Model(net, VP(), "v"), shape


def drawn(kind):
    model, shape = network(kind)
    return samplers.sample(model, (64, *shape), steps=4, seeds=range(64))


def trained(kind):
    model, shape = network(kind)
    x = torch.randn(128, *shape, generator=seeded())
    *_, last = fit(model, x, 3, batch_size=64, generator=seeded())
    return torch.cat([p.flatten() for p in last.model.net.parameters()])


def shards():
    with tempfile.TemporaryDirectory() as folder:
        paths = samplers.sample_shards(MODEL, 5, folder, shard=2, steps=3)
        return torch.cat([load_file(path)["samples"] for path in paths])  # the header's order is another each time


X = mixture().sample(20, seeded())
LEVELS = torch.randint(4, (5, 2), generator=seeded())
ANSWERS = {
    **{f"sampler {short(s, SAMPLERS)}": lambda s=s: samplers.sample(MODEL, (9, 2), s, 5, generator=seeded())
       for s in SAMPLERS},
    **{f"samples of a network ({kind})": lambda kind=kind: drawn(kind) for kind in ("MLP", "UNet", "DiT")},
    **{f"training of a network ({kind})": lambda kind=kind: trained(kind) for kind in ("MLP", "UNet", "DiT")},
    "sample_shards": shards,
    "prior": lambda: RectifiedFlow().prior((5, 3), seeded()),
    "log_prob": lambda: log_prob(MODEL, X).value,
    "log_prob by probes": lambda: log_prob(MODEL, X, 20, divergence="hutchinson", generator=seeded()).value,
    "elbo": lambda: elbo(MODEL, X, 32, generator=seeded()).value,
    "vlb": lambda: vlb(mixture().model(ddpm(50)), LEVELS, 4, 8, generator=seeded()).value,
    "bits_per_dim": lambda: bits_per_dim(MODEL, LEVELS, 4, samples=2, steps=10, generator=seeded()).each,
    "fit_dequantizer": lambda: torch.cat([p.flatten() for p in fit_dequantizer(
        MODEL, LEVELS, 4, 3, generator=seeded()).net.parameters()]),
    "draw_times": lambda: draw_times(VP(), 50, seeded(), low_discrepancy=False),
    "loss": lambda: loss(MODEL, X, generator=seeded()),
    "loss_by_logsnr": lambda: loss_by_logsnr(MODEL, X, 3, 20, generator=seeded()).loss,
    "targets": lambda: torch.cat([mixture().sample(9, seeded()), *(
        getattr(targets, name)(9, seeded()).double() for name in ("moons", "rings", "checkerboard", "pinwheel"))]),
    "fit_classifier": lambda: guidance.fit_classifier(
        VP(), *classes().sample(50, seeded()), 3, width=8, generator=seeded())(X, torch.full((20,), 0.5).double()),
    "metrics": lambda: torch.tensor([metrics.measure(name, X, X.flip(0) + 0.1, X - 0.1, generator=seeded()).value
                                     for name in ("sliced_wasserstein", "mmd", "classifier_test", "recall")]),
    "fit_features": lambda: metrics.fit_features(X.repeat(4, 1), steps=3, generator=seeded())(X.float()),
    "split": lambda: torch.cat([part.raw(torch.arange(len(part))) for part in data.load("moons", n=30).split(0.3)]),
}  # fmt: skip
MAY_DIFFER = ("training of a network (UNet)",)
"""With other thread counts: the gradient of a convolution is then summed in other pieces."""


def digest(name):
    return hashlib.sha256(ANSWERS[name]().detach().contiguous().numpy().tobytes()).hexdigest()[:16]


def elsewhere(threads, names=tuple(ANSWERS)):
    """The digests by another process, with so many threads and another hash seed, the last answer first."""
    code = (
        "import json, sys, torch; torch.set_num_threads(int(sys.argv[1])); from tests.test_determinism import digest; "
        "print(json.dumps({name: digest(name) for name in reversed(sys.argv[2:])}))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "7", "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(
        [sys.executable, "-c", code, str(threads), *names], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def here():
    return {name: digest(name) for name in ANSWERS}


def test_again_and_whatever_the_global_generator_does(here):
    for name in ANSWERS:
        torch.manual_seed(len(name))
        assert digest(name) == here[name], name


def test_in_another_process(here):
    assert elsewhere(1) == here


def test_with_two_threads(here):
    large = [name for name in ANSWERS if " a " in name or "fit" in name or name in ("log_prob", "loss", "metrics")]
    names = [name for name in large if name not in MAY_DIFFER]
    assert elsewhere(2, names) == {name: here[name] for name in names}


def test_a_function_of_other_numbers_is_another_part():
    """What is kept on disk goes by a fingerprint: of functions with arguments filled in, those count too."""
    assert fingerprint(partial(round, 1.5)) == fingerprint(partial(round, 1.5))
    assert fingerprint(partial(round, 1.5)) != fingerprint(partial(round, 2.5))
    assert fingerprint(guidance.interval(2.0, 0.1, 0.5)) != fingerprint(guidance.interval(3.0, 0.1, 0.5))


def test_one_bit_is_seen(here, monkeypatch):
    prior = ANSWERS["prior"]()
    prior[0, 0] = torch.nextafter(prior[0, 0], torch.tensor(9.0))
    monkeypatch.setitem(ANSWERS, "prior", lambda: prior)
    assert digest("prior") != here["prior"]
