"""Networks: time, labels, sizes, and what a checkpoint needs to build them again."""

import copy
import json
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from scoresde import EDM, VP, Model, RectifiedFlow, networks
from scoresde.networks.attention import Attention
from scoresde.testing import check_model
from tests.nets import NETS, case, every_net, relative, stirred
from tests.problems import name


@every_net
def test_samples_do_not_see_each_other(kind):
    net, x, t, label = case(kind, 5)
    together = net(x, t, label=label)
    for i in range(5):
        alone = net(x[i : i + 1], t[i : i + 1], label=label[i : i + 1])
        assert torch.allclose(alone[0], together[i], rtol=1e-12, atol=1e-12)
    assert net(x[:0], t[:0], label=label[:0]).shape == x[:0].shape


@every_net
def test_time_and_label_matter_and_negative_is_none(kind):
    net, x, t, _ = case(kind)
    none, full = net(x, t), torch.full((3,), -1)
    assert relative(net(x, 0.5 * t), none) > 1e-3
    assert torch.equal(net(x, t, label=full[0] + 2), net(x, t, label=full + 2))  # one label for all
    assert torch.equal(net(x, t, label=full), none) and torch.equal(net(x, t, label=7 * full), none)
    outputs = [none, *(net(x, t, label=torch.full((3,), k)) for k in range(3))]
    for i in range(4):
        for j in range(i):
            assert relative(outputs[i], outputs[j]) > 1e-3


@every_net
def test_training_reaches_every_parameter_and_starts_from_zero(kind):
    net = NETS[kind]()
    shape = getattr(net, "shape", None) or net.net.shape
    x, t, label = torch.randn(8, *shape), torch.rand(8), torch.arange(8) % 4 - 1
    start = net(x, t, label=label)
    if kind == "Preconditioned":
        size = 0.25 * net.process.alpha(t) ** 2 + net.process.sigma(t) ** 2
        assert torch.allclose(start, (0.25 * net.process.alpha(t) / size)[:, None, None, None] * x, atol=1e-6)
    else:
        assert not start.any()
    before = {k: p.detach().clone() for k, p in net.named_parameters()}
    adam = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(4):  # zeros behind zeros wake up one after the other
        adam.zero_grad()
        (net(x, t, label=label) - x.sin()).square().mean().backward()
        adam.step()
    assert all(not torch.equal(p, before[k]) for k, p in net.named_parameters())


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 7, 5), (2, 9), (1, 1, 6), (4, 1)])
def test_a_unet_takes_any_size_and_its_output_depends_on_every_pixel(shape):
    net = stirred(networks.UNet(shape, width=8))
    x = torch.randn(1, *shape, dtype=torch.float64, requires_grad=True)
    y = net(x, torch.tensor([0.5], dtype=torch.float64))
    assert y.shape == x.shape
    (slope,) = torch.autograd.grad(y.flatten()[0], x)
    assert bool((slope != 0).all())  # of the first pixel: attention at the lowest resolution reaches them all


def test_attention_is_the_textbooks_and_global_without_it_a_unet_is_local():
    layer, x = Attention(8, 2).double(), torch.randn(3, 5, 8, dtype=torch.float64)
    query, key, value = (h.reshape(3, 5, 2, 4).transpose(1, 2) for h in layer.enter(x).chunk(3, -1))
    mixed = (query @ key.mT / 2).softmax(-1) @ value
    assert torch.allclose(layer(x), layer.leave(mixed.transpose(1, 2).reshape(3, 5, 8)), rtol=1e-12, atol=1e-12)

    def reach(attention):
        net = stirred(networks.UNet((1, 256), width=4, multipliers=(1,), attention=attention))
        for module in net.modules():
            if isinstance(module, nn.GroupNorm):
                module.forward = lambda x: x  # it sees all places too
        x = torch.randn(1, 1, 256, dtype=torch.float64, requires_grad=True)
        y = net(x, torch.tensor([0.5], dtype=torch.float64))
        return int((torch.autograd.grad(y[0, 0, 0], x)[0] != 0).sum())

    assert reach(1) == 256
    assert reach(0) == 11  # the place, and one more for each of 2 + 2 · 4 convolutions of width 3


def test_dit_cuts_patches_in_place_and_tells_places_apart():
    net = stirred(networks.DiT((2, 4, 6), patch=2, width=16, blocks=1, heads=2))
    x = torch.randn(3, 2, 4, 6, dtype=torch.float64)
    tokens = net._cut(x)
    assert tokens.shape == (3, 6, 8) and torch.equal(net._join(tokens), x)
    assert torch.equal(tokens[:, 4], x[:, :, 2:4, 2:4].flatten(1))
    wave = networks.DiT((3, 8), patch=4, width=16, blocks=1, heads=2)
    x = torch.randn(3, 3, 8)
    assert torch.equal(wave._cut(x)[:, 1], x[:, :, 4:].flatten(1)) and torch.equal(wave._join(wave._cut(x)), x)
    # Σ over frequencies of cos(ω Δ) in each axis: a function of the distance alone, the largest at distance 0
    codes, rows, columns = net.positions.double(), torch.arange(6) // 3, torch.arange(6) % 3
    frequencies = 10_000.0 ** (-torch.arange(4) / 4)
    exact = sum(
        torch.cos((place[:, None] - place)[..., None] * frequencies).sum(-1) for place in (rows, columns)
    ).double()
    assert torch.allclose(codes @ codes.mT, exact, atol=1e-5)  # float32
    rolled = net(torch.roll(torch.zeros(1, 2, 4, 6).double(), 2, -1), torch.full((1,), 0.5, dtype=torch.float64))
    assert relative(rolled[..., :2], rolled[..., 2:4]) > 1e-3  # equal patches, unequal places


@every_net
def test_bf16_autocast_answers_in_the_states_dtype(kind):
    net, x, t, label = case(kind)
    net, x, t = net.float(), x.float(), t.float()
    full = net(x, t, label=label)
    with torch.autocast("cpu", torch.bfloat16):
        half = net(x, t, label=label)
    # 2⁻⁸ a rounding, some ten roundings deep
    assert half.dtype == torch.float32 and 0 < relative(half, full) < 0.1


@every_net
def test_a_network_is_built_again_from_its_arguments(kind):
    net, x, t, label = case(kind)
    kept = net.arguments
    again = type(net)(**{k: copy.deepcopy(v) for k, v in kept.items()}).double()
    again.load_state_dict(net.state_dict())
    assert torch.equal(again.eval()(x, t, label=label), net(x, t, label=label))
    assert networks.NETWORKS[type(net).__name__] is type(net)
    if "net" in kept:
        assert kept["net"] is net.net and not any(key.startswith("arguments") for key in net.state_dict())
        assert len(list(net.parameters())) == len(list(net.net.parameters()))
    else:
        assert type(net)(**json.loads(json.dumps(kept))).arguments == kept
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(x, t, label=label), net(x, t, label=label))
        assert twin.arguments.keys() == kept.keys() and twin.arguments.get("net") is getattr(twin, "net", None)


def test_arguments_hold_defaults_and_a_subclass_its_own():
    assert networks.UNet([1, 8, 8], 16).arguments == {
        "shape": (1, 8, 8), "width": 16, "multipliers": (1, 2, 2), "blocks": 1, "attention": 1, "classes": None,
        "features": 64, "dropout": 0.0,
    }  # fmt: skip

    class Own(networks.MLP):
        def __init__(self, dim, **rest):
            super().__init__(dim, width=8, **rest)

    class Passing(networks.MLP):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)

    class Same(networks.MLP):
        pass

    assert Own(2, blocks=1).arguments == {"dim": 2, "blocks": 1} == Own(**Own(2, blocks=1).arguments).arguments
    for cls in (Passing, Same):
        assert cls(2, 8).arguments == networks.MLP(2, 8).arguments
        assert type(cls(**cls(2, 8).arguments)) is cls
    with pytest.raises(TypeError, match="shape"):
        networks.MLP()


@pytest.mark.parametrize("process", [VP(), EDM(), RectifiedFlow()], ids=name)
@pytest.mark.parametrize("build", [
    lambda: networks.UNet((1, 6, 6), width=8), lambda: networks.DiT((1, 6, 6), width=16, blocks=2)
], ids=["UNet", "DiT"])  # fmt: skip
def test_check_model_passes(build, process):
    net = stirred(networks.Preconditioned(build(), process))
    check_model(Model(net, process, "x0"), torch.randn(6, 1, 6, 6, dtype=torch.float64))


@every_net
def test_compiled_networks_are_the_same(kind):
    net, x, t, label = case(kind)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    assert relative(compiled(x, t, label=label), net(x, t, label=label)) < 1e-12


def test_dropout_acts_in_training_alone():
    net = stirred(networks.UNet((1, 4, 4), width=8, dropout=0.5))
    x, t = torch.randn(2, 1, 4, 4, dtype=torch.float64), torch.full((2,), 0.5, dtype=torch.float64)
    assert torch.equal(net(x, t), net(x, t))
    net.train()
    assert not torch.equal(net(x, t), net(x, t))


def test_time_embedding_has_the_frequencies_asked_for():
    embedding = networks.TimeEmbedding(8, highest=27.0)
    assert torch.allclose(embedding.frequencies, torch.tensor([1.0, 3.0, 9.0, 27.0]))
    t = torch.tensor([0.25])
    exact = [f(0.25 * k) for f in (math.sin, math.cos) for k in (1, 3, 9, 27)]
    assert torch.allclose(embedding(t)[0], torch.tensor(exact), atol=1e-5)
    assert float(networks.TimeEmbedding().frequencies[-1]) == pytest.approx(1000.0)
    assert float(networks.UNet((1, 4, 4)).condition.time[0].frequencies[-1]) == pytest.approx(32.0)


X, T = torch.zeros(3, 1, 8, 8), torch.zeros(3)


UNET = networks.UNet((1, 8, 8), width=8, classes=10)


REFUSED = {
    "shape of points": (lambda: networks.UNet(2), ValueError, r"shape must be \(C, H, W\) or \(C, L\), got 2"),
    "shape of volumes": (lambda: networks.DiT((1, 2, 2, 2)), ValueError, "shape"),
    "shape zero": (lambda: networks.UNet((0, 8, 8)), ValueError, "shape"),
    "width": (lambda: networks.UNet((1, 8, 8), width=0), ValueError, "width"),
    "width fraction": (lambda: networks.DiT((1, 8, 8), width=8.0), ValueError, "width"),
    "multipliers": (lambda: networks.UNet((1, 8, 8), multipliers=()), ValueError, "multipliers"),
    "attention": (lambda: networks.UNet((1, 8, 8), attention=4), ValueError, "attention must be at most 3"),
    "dropout": (lambda: networks.UNet((1, 8, 8), dropout=1.0), ValueError, "dropout"),
    "features": (lambda: networks.UNet((1, 8, 8), features=7), ValueError, "features must be even"),
    "highest": (lambda: networks.MLP(2, highest=0.5), ValueError, "highest"),
    "classes": (lambda: networks.UNet((1, 8, 8), classes=0), ValueError, "classes"),
    "classes of an MLP": (lambda: networks.MLP(2, classes=-1), ValueError, "classes"),
    "patch": (lambda: networks.DiT((1, 9, 6), patch=2), ValueError, r"patch must divide the sizes .*write patch=3"),
    "heads": (lambda: networks.DiT((1, 8, 8), width=16, heads=3), ValueError, "heads"),
    "positions": (lambda: networks.DiT((1, 8, 8), width=6, heads=3), ValueError, "width"),
    "x": (lambda: UNET(X[:, :, :7], T), ValueError, "x must have shape"),
    "x dtype": (lambda: UNET(X.double(), T.double()), TypeError, "x must have the network's dtype"),
    "t": (lambda: UNET(X, T[:2]), ValueError, "t must have shape"),
    "label shape": (lambda: UNET(X, T, torch.zeros(2).long()), ValueError, r"label must have shape \(\) or \(3,\)"),
    "label dtype": (lambda: UNET(X, T, T), TypeError, "int64, got torch.float32"),
    "label number": (lambda: UNET(X, T, 3), TypeError, "label must be a tensor"),
    "label large": (lambda: UNET(X, T, torch.tensor([0, 10, 1])), ValueError, "label must be below 10"),
    "label unwanted": (lambda: networks.DiT((1, 8, 8))(X, T, torch.zeros(3).long()), ValueError, "without classes"),
    "label of an MLP": (lambda: networks.MLP(2)(X[:, 0, 0, :2], T, T.long()), ValueError, "without classes"),
    "scale": (lambda: networks.Preconditioned(UNET, VP(), math.nan), ValueError, "scale"),
    "process": (lambda: networks.Preconditioned(UNET, "vp"), TypeError, "process must be a Process"),
    "process class": (lambda: networks.Scaled(UNET, VP), TypeError, "process must be a Process"),
}


@pytest.mark.parametrize("key", REFUSED)
def test_bad_input_is_named(key):
    call, error, words = REFUSED[key]
    with pytest.raises(error, match=words):
        call()


def test_an_mlp_without_classes_is_what_it_was():
    """The forward pass written out, and the names of its weights: checkpoints of before must load."""
    net = stirred(networks.MLP(3, width=8, blocks=1, features=4))
    x, t = torch.randn(5, 3, dtype=torch.float64), torch.rand(5, dtype=torch.float64)
    weight = net.state_dict()
    assert set(weight) == {"embedding.0.frequencies"} | {
        f"{part}.{kind}"
        for part in ("embedding.1", "enter", "leave", *(f"blocks.0.{p}" for p in ("norm", "first", "second", "film")))
        for kind in ("weight", "bias")
    }

    def linear(part, h):
        return h @ weight[f"{part}.weight"].mT + weight[f"{part}.bias"]

    angles = t[:, None] * torch.tensor([1.0, 1000.0], dtype=torch.float64)
    scale, shift = linear(
        "blocks.0.film", silu(linear("embedding.1", torch.cat([angles.sin(), angles.cos()], 1)))
    ).chunk(2, 1)
    hidden = linear("enter", x)
    norm = torch.nn.functional.layer_norm(hidden, (8,), weight["blocks.0.norm.weight"], weight["blocks.0.norm.bias"])
    hidden = hidden + linear("blocks.0.second", silu(linear("blocks.0.first", norm) * (1 + scale) + shift))
    assert torch.allclose(net(x, t), linear("leave", hidden), rtol=1e-6, atol=1e-6)  # frequencies are of float32
