"""Inside the loop nothing waits for the device: no value is read back, no data is sent there, nothing recompiles."""

from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from scoresde import EDM, VP, Model, RectifiedFlow, ddpm, samplers
from scoresde.samplers import Sampler
from scoresde.samplers.noise import Source
from tests.problems import name

PROCESSES = [VP(), EDM(), RectifiedFlow(), ddpm()]
DECIDING = ("ODE", "SDE", "Adaptive")  # whose next step depends on the state: the host has to wait for it


def all_samplers():
    """Every sampler that is exported, as it is built by default."""
    for key in samplers.__all__:
        kind = getattr(samplers, key)
        if isinstance(kind, type) and issubclass(kind, Sampler) and kind is not Sampler and key not in DECIDING:
            yield kind()
            if "eta" in kind.__dataclass_fields__ and not kind().stochastic:
                yield kind(eta=0.5)


def tensors(*trees):
    return [leaf for leaf in tree_leaves(trees) if isinstance(leaf, torch.Tensor)]


class Operations(TorchDispatchMode):
    """Fails where an operation reads a tensor of the device, or takes one of the host there (numbers () may join)."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        given, made = tensors(args, kwargs), tensors(result)
        copies = func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)
        sent = [t for t in given if t.device.type == "cpu" and (t.ndim or copies)]
        if sent and any(t.device.type == "meta" for t in made):
            raise AssertionError(f"{func} sends {tuple(sent[0].shape)} numbers to the device")
        if any(t.device.type == "meta" for t in given) and any(t.device.type == "cpu" for t in made):
            raise AssertionError(f"{func} waits for the device")
        return result


class Makers(TorchFunctionMode):
    """Fails where numbers of the host are made into a tensor of the device."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func in (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor):
            source = args[0] if func is not torch.Tensor.new_tensor else args[1]
            if result.device.type == "meta" and not isinstance(source, torch.Tensor):
                raise AssertionError(f"{func} sends numbers to the device")
        return result


@contextmanager
def watched():
    """The device is "meta", which computes nothing: values that are asked for are not there to be had."""
    with Operations(), Makers():
        yield


def walk(sampler, process, moments, steps=6, seeds=None, free=0):
    """Run the sampler on the device, watched but for the first `free` steps."""
    model = Model(lambda x, t: x * t[:, None], process, "v", moments)
    x = torch.empty(4, 3, device="meta")
    times, source = sampler.grid(model, steps).tolist(), Source(x, 4, seeds=seeds)
    states = sampler.run(model, x, times, source)
    for _ in range(free):
        x = next(states)
    with watched():
        *_, x = states
    return x


@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("sampler", list(all_samplers()), ids=repr)
def test_no_step_waits_for_the_device(sampler, process):
    for moments in (None, (0.5, 2.0)):
        end = walk(sampler, process, moments)
        assert end.device.type == "meta" and end.shape == (4, 3)


@pytest.mark.parametrize("sampler", list(all_samplers()), ids=repr)
def test_moments_are_sent_once(sampler):
    """A mean and deviations, or a covariance, of every coordinate go to the device with the first step."""
    for second in (torch.ones(3), torch.eye(3)):
        assert walk(sampler, VP(), (torch.zeros(3), second), free=1).device.type == "meta"


@pytest.mark.parametrize("sampler", [s for s in all_samplers() if s.stochastic], ids=repr)
def test_nor_does_the_noise(sampler):
    """With a seed a sample, and along a Brownian path where the sampler offers it."""
    paths = [replace(sampler, noise="path")] if "noise" in sampler.__dataclass_fields__ else []
    for one in (sampler, *paths):
        assert walk(one, VP(), None, seeds=range(4)).shape == (4, 3)


PLANTS = {
    "item": lambda x: x * x.sum().item(),
    "branch": lambda x: x if x.abs().max() > 1 else 2 * x,
    "tensor of numbers": lambda x: x * torch.tensor([1.0, 2.0, 3.0], device=x.device),
    "new tensor": lambda x: x * x.new_tensor(3.0),
    "copy": lambda x: x + torch.ones(3).to(x.device),
    "written": lambda x: x.clone().copy_(torch.ones(4, 3)),
    "read": lambda x: torch.as_tensor(x.cpu().numpy().sum()),
    "indices": lambda x: x[x.sum(1) > 0],
}


@pytest.mark.parametrize("plant", PLANTS.values(), ids=PLANTS)
def test_a_planted_wait_is_seen(plant):
    class Slow(samplers.Euler):
        def step(self, model, x, t, s, memory, randn):
            return plant(super().step(model, x, t, s, memory, randn)[0]), memory

    with pytest.raises((AssertionError, RuntimeError, NotImplementedError), match=r"(?i)device|meta"):
        walk(Slow(), VP(), None)


def test_numbers_of_the_host_are_no_wait():
    class Fine(samplers.Euler):
        def step(self, model, x, t, s, memory, randn):
            x, memory = super().step(model, x, t, s, memory, randn)
            return x * torch.tensor(2.0, dtype=torch.float64) + float(torch.tensor([1.0]).sum()), memory

    assert walk(Fine(), VP(), None).device.type == "meta"


class Small(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(3, 2)

    def forward(self, x, t):
        return self.layer(torch.cat([x, t[:, None]], 1))


@pytest.mark.parametrize("sampler", [samplers.Adams(), samplers.DPMSolverPP(eta=0.5), samplers.Heun()], ids=repr)
def test_a_compiled_network_is_compiled_once(sampler):
    """Model(torch.compile(net), ...): one graph for any number of steps, and the samples of the plain network."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph.forward

    net, x = Small(), torch.randn(4, 2)
    compiled = Model(torch.compile(net, backend=backend, fullgraph=True), VP(), "v")
    for steps in (3, 7, 20):
        plain = samplers.sample(Model(net, VP(), "v"), x=x, sampler=sampler, steps=steps, seeds=range(4))
        assert torch.allclose(samplers.sample(compiled, x=x, sampler=sampler, steps=steps, seeds=range(4)), plain)
    assert len(graphs) == 1
