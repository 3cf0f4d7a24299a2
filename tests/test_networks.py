"""Networks: derivatives of every kind, time, labels, sizes, and what a checkpoint needs to build them again."""

import copy
import json
import math
import pickle

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from scoresde import (
    EDM,
    PREDICTIONS,
    VE,
    VP,
    Cosine,
    Model,
    RectifiedFlow,
    Sigmoid,
    convert,
    ddpm,
    log_prob,
    networks,
    targets,
)  # fmt: skip
from scoresde.divergence import Probes
from scoresde.networks.attention import Attention
from scoresde.networks.elementary import differentiable
from scoresde.testing import check_model
from tests.problems import PROCESSES, name

NETS = {
    "MLP": lambda: networks.MLP((1, 4, 3), width=16, blocks=2, classes=3),
    "UNet": lambda: networks.UNet((1, 5, 4), width=8, multipliers=(1, 2), classes=3),
    "UNet 1-D": lambda: networks.UNet((2, 7), width=8, multipliers=(1, 2), classes=3),
    "DiT": lambda: networks.DiT((1, 4, 6), width=16, blocks=2, heads=2, classes=3),
    "DiT 1-D": lambda: networks.DiT((2, 6), width=16, blocks=2, heads=2, classes=3),
    "Scaled": lambda: networks.Scaled(networks.DiT((1, 4, 4), width=8, blocks=1, heads=2, classes=3), EDM()),
    "Preconditioned": lambda: networks.Preconditioned(
        networks.UNet((1, 4, 4), width=4, multipliers=(1, 1), classes=3), VP(), 0.5
    ),
}
every_net = pytest.mark.parametrize("kind", NETS)


def stirred(net):
    """In float64, with no weight left at zero."""
    generator = torch.Generator().manual_seed(1)
    for parameter in net.double().eval().parameters():
        with torch.no_grad():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return net


def case(kind, size=3):
    net = stirred(NETS[kind]())
    shape = getattr(net, "shape", None) or net.net.shape
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(size, *shape, generator=generator, dtype=torch.float64)
    t = 0.1 + 0.8 * torch.rand(size, generator=generator, dtype=torch.float64)
    return net, x, t, torch.arange(size) % 4 - 1


def directions(x):
    return torch.randn(2, *x.shape, generator=torch.Generator().manual_seed(3), dtype=x.dtype)


def relative(a, b):
    return float((a - b).detach().abs().max() / b.detach().abs().max())


def derivatives(function, x):
    """How far forward mode is from central differences, and from reverse mode."""
    v, w = directions(x)
    push = torch.func.jvp(function, (x,), (v,))[1]
    (back,) = torch.func.vjp(function, x)[1](w)
    # fourth order: h⁴ f⁽⁵⁾/30 and rounding ε f/h are both below 1e-10 of f' for smooth f of order one
    h = 1e-3
    steps = {k: function(x + k * h * v) for k in (-2, -1, 1, 2)}
    differences = (8 * (steps[1] - steps[-1]) - (steps[2] - steps[-2])) / (12 * h)
    scale = float((push.norm() * w.norm()).detach())
    return relative(push, differences), abs(float(((w * push).sum() - (back * v).sum()).detach())) / scale


@every_net
def test_forward_mode_is_the_difference_quotient_and_the_transpose_of_reverse_mode(kind):
    net, x, t, label = case(kind)
    quotient, transpose = derivatives(lambda z: net(z, t, label=label), x)
    assert quotient < 1e-8 and transpose < 1e-12


def test_a_wrong_derivative_is_seen():
    x = torch.randn(3, 4, dtype=torch.float64)
    assert derivatives(lambda z: z * z.detach(), x)[0] > 0.1
    assert derivatives(lambda z: z.sin() * z, x)[0] < 1e-8


@every_net
def test_reverse_over_forward_is_reverse_over_reverse(kind):
    """The gradient of ⟨w, J v⟩ in x and in every parameter: of a forward product, and of a backward one."""
    net, x, t, label = case(kind)
    v, w = directions(x)
    weights = {k: p.detach() for k, p in net.named_parameters()}

    def call(weights, z):
        return torch.func.functional_call(net, weights, (z, t), {"label": label})

    def forwards(weights, z):
        return (w * torch.func.jvp(lambda y: call(weights, y), (z,), (v,))[1]).sum()

    def backwards(weights, z):
        return (torch.func.vjp(lambda y: call(weights, y), z)[1](w)[0] * v).sum()

    mixed, twice = (torch.func.grad(f, (0, 1))(weights, x) for f in (forwards, backwards))
    scale = max(float(g.abs().max()) for g in twice[0].values())
    assert relative(mixed[1], twice[1]) < 1e-8
    for key in weights:
        assert torch.allclose(mixed[0][key], twice[0][key], rtol=0, atol=1e-8 * scale), key

    z = x.clone().requires_grad_()  # without torch.func
    (down,) = torch.autograd.grad((w * net(z, t, label=label)).sum(), z, create_graph=True)
    plain = torch.autograd.grad((down * v).sum(), [z, *net.parameters()], allow_unused=True)
    assert relative(plain[0], twice[1]) < 1e-8
    for found, key in zip(plain[1:], weights):
        error = twice[0][key] if found is None else found - twice[0][key]
        assert float(error.abs().max()) < 1e-8 * scale, key


@every_net
def test_vmap_and_dual_numbers_pass(kind):
    net, x, t, label = case(kind)
    y = net(x, t, label=label)
    alone = torch.func.vmap(lambda x, t, label: net(x[None], t[None], label=label[None])[0])(x, t, label)
    assert relative(alone, y) < 1e-12
    v, _ = directions(x)
    with torch.autograd.forward_ad.dual_level():
        dual = net(torch.autograd.forward_ad.make_dual(x, v), t, label=label)
        tangent = torch.autograd.forward_ad.unpack_dual(dual).tangent
    assert relative(tangent, torch.func.jvp(lambda z: net(z, t, label=label), (x,), (v,))[1]) < 1e-12


@every_net
def test_the_divergence_is_the_trace(kind):
    net, x, t, label = case(kind)
    shape = x.shape
    value, trace = Probes(x[0].numel()).of(lambda z: net(z.reshape(shape), t, label=label).flatten(1), x.flatten(1))
    jacobian = torch.func.jacrev(lambda z: net(z, t, label=label))(x).reshape(len(x), x[0].numel(), len(x), -1)
    exact = torch.stack([jacobian[i, :, i].trace() for i in range(len(x))])
    assert torch.allclose(trace[:, 0], exact, rtol=1e-10, atol=1e-10)
    assert torch.allclose(value, net(x, t, label=label).flatten(1), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("net", [
    lambda: networks.UNet((1, 2, 2), width=4, multipliers=(1, 2), classes=2),
    lambda: networks.DiT((2, 4), width=8, blocks=1, heads=2, classes=2),
])  # fmt: skip
def test_log_prob_passes_through_attention_and_is_exact_where_it_is_known(net):
    net = networks.Preconditioned(net(), VP())
    shape = net.net.shape
    x = torch.randn(3, *shape, dtype=torch.float64)
    model = Model(net.double(), VP(), "x0").given(label=torch.tensor([0, 1, -1]))
    # F = 0 is the denoiser of N(0, 1), whose density log_prob must find
    normal = -0.5 * (x.flatten(1).square().sum(1) + x[0].numel() * math.log(2 * math.pi))
    assert torch.allclose(log_prob(model, x, divergence="exact").value, normal, atol=1e-5)


@every_net
def test_the_gradient_of_the_divergence_is_that_of_differences(kind):
    """What log_prob's gradient in the parameters is made of, along one direction of all parameters."""
    net, x, t, label = case(kind)
    generator, shape, h = torch.Generator().manual_seed(4), x.shape, 1e-4
    moves = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in net.parameters()]

    def trace(step):
        with torch.no_grad():
            for parameter, move in zip(net.parameters(), moves):
                parameter.add_(step * move)
        return (
            Probes(x[0].numel()).of(lambda z: net(z.reshape(shape), t, label=label).flatten(1), x.flatten(1))[1].sum()
        )

    slopes = torch.autograd.grad(trace(0.0), list(net.parameters()), allow_unused=True)
    found = sum(float((s * m).sum()) for s, m in zip(slopes, moves) if s is not None)
    lowest, low, high, highest = (float(trace(step).detach()) for step in (-2 * h, h, 2 * h, h))  # each from the last
    # fourth order: 1e-16 of truncation, and rounding of 1e-15 · |trace|/h
    assert found == pytest.approx((8 * (high - low) - (highest - lowest)) / (12 * h), rel=1e-6)


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


def test_fused_attention_trains_and_elementary_attention_is_differentiated():
    x, t = torch.randn(2, 3, requires_grad=True), torch.rand(2)
    flags = torch.backends.cuda.flash_sdp_enabled, torch.backends.cuda.math_sdp_enabled
    before = [flag() for flag in flags]

    def fused(*inputs):
        with differentiable(*inputs):
            return torch.backends.cuda.flash_sdp_enabled()

    seen = []
    assert fused(x.detach(), t) and not fused(x, t) and not fused(x.detach(), t.requires_grad_())
    with torch.no_grad():
        assert fused(x, t)
    torch.func.jvp(lambda s: seen.append(fused(x.detach(), t.detach())) or s, (t.detach(),), (t.detach(),))
    torch.func.vmap(lambda s: seen.append(fused(s, s)) or s)(x.detach())
    assert seen == [False, False] and [flag() for flag in flags] == before


NORMS = {
    "layer": nn.LayerNorm((5, 4)),
    "layer without bias": nn.LayerNorm(4, bias=False),
    "plain layer": nn.LayerNorm(4, elementwise_affine=False),
    "group": nn.GroupNorm(3, 6),
    "plain group": nn.GroupNorm(2, 6, affine=False),
    "instance": nn.InstanceNorm1d(6, affine=True),
    "tracking instance": nn.InstanceNorm1d(6, track_running_stats=True),
    "rms": nn.RMSNorm((5, 4)),
    "rms eps": nn.RMSNorm(4, eps=0.1, elementwise_affine=False),
}


@pytest.mark.parametrize("kind", NORMS)
def test_elementary_norms_are_torchs_with_right_derivatives(kind):
    """Torch 2.13's own LayerNorm and InstanceNorm fail the last line."""
    norm = stirred(copy.deepcopy(NORMS[kind]))
    x = torch.randn(3, 6, 5, 4, dtype=torch.float64)
    x = x[:, :, 0] if "instance" in kind else x
    v, w = directions(x)

    def call(z):
        with differentiable(z):
            return norm(z)

    assert torch.allclose(torch.func.vmap(call)(x[None])[0], norm(x), rtol=1e-12, atol=1e-12)
    forwards = torch.func.grad(lambda z: (w * torch.func.jvp(call, (z,), (v,))[1]).sum())(x)
    backwards = torch.func.grad(lambda z: (torch.func.vjp(call, z)[1](w)[0] * v).sum())(x)
    assert torch.allclose(forwards, backwards, rtol=1e-10, atol=1e-10)


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


def edm(rho, s):
    """Karras et al. (2022), table 1: c_skip, c_out, c_in of noise level ρ and data of deviation s."""
    return s**2 / (rho**2 + s**2), rho * s / (rho**2 + s**2).sqrt(), 1 / (rho**2 + s**2).sqrt()


@pytest.mark.parametrize("process", [EDM(), VE(), VP(), RectifiedFlow(), ddpm()], ids=name)
@pytest.mark.parametrize("scale", [0.5, 1.0, 3.0])
def test_preconditioning_is_edms(process, scale):
    seen = []

    def inner(x, place, k):
        seen.append((x, place))
        return torch.sin(x) + k

    t = torch.tensor([0.02, 0.3, 0.9], dtype=torch.float64) * process.t_max
    alpha, sigma = process.alpha(t)[:, None], process.sigma(t)[:, None]
    x = torch.randn(3, 4, dtype=torch.float64)
    found = networks.Preconditioned(inner, process, scale)(x, t, k=2.0)
    skip, out, enter = edm(sigma / alpha, scale)
    y = x / alpha
    assert torch.allclose(found, skip * y + out * (torch.sin(enter * y) + 2), rtol=1e-12, atol=1e-12)
    place = (sigma / alpha).log()[:, 0].clamp(-math.log(1000), math.log(1000)) / (2 * math.log(1000)) + 0.5
    assert torch.allclose(seen[0][0], enter * y, rtol=1e-12) and torch.allclose(seen[0][1], place, rtol=1e-12)


@pytest.mark.parametrize("process", PROCESSES, ids=name)
@pytest.mark.parametrize("wrapper", [networks.Scaled, networks.Preconditioned])
def test_places_lie_in_the_unit_interval_and_rise_with_the_noise(wrapper, process):
    places = []
    net = wrapper(lambda x, place: places.append(place) or x, process)
    t = torch.linspace(0, 1, 50, dtype=torch.float64) * process.t_max
    net(torch.zeros(50, 1, dtype=torch.float64), t)
    (place,) = places
    assert bool((place.diff() >= 0).all()) and 0 <= float(place[0]) < 0.5 < float(place[-1]) <= 1
    assert float(place[-1]) == 1.0 or float(process.alpha(process.t_max)) > 0


@pytest.mark.parametrize("process", PROCESSES, ids=name)
def test_without_a_network_preconditioning_is_the_best_linear_denoiser(process):
    scale = 0.7
    net = networks.Preconditioned(lambda x, t: torch.zeros_like(x), process, scale)
    exact = targets.Gaussian([0.0, 0.0], scale**2).model(process, "x0")
    x = torch.randn(5, 2, dtype=torch.float64)
    for share in (0.01, 0.5, 0.99):
        t = share * process.t_max
        found = Model(net, process, "x0")(x, t)
        assert torch.allclose(found, exact(x, t), rtol=1e-10, atol=1e-12)
    noisy = networks.Preconditioned(lambda x, t: x, process, scale)
    for t in (0.0, process.t_max):  # nothing is infinite where σ = 0 or α = 0
        assert bool(torch.isfinite(Model(noisy, process, "x0")(x, t)).all())


@pytest.mark.parametrize("process", [EDM(), VP(), RectifiedFlow()], ids=name)
def test_what_a_preconditioned_network_learns_is_a_row(process):
    """F is the row (σ/(s h), −s α/h): the same model by `Scaled` and that prediction, without cancellation."""
    scale = 0.5

    def row(process, t):
        alpha, sigma = process.alpha(t), process.sigma(t)
        size = torch.hypot(scale * alpha, sigma)
        return sigma / (scale * size), -scale * alpha / size

    def inner(x, place):
        return torch.sin(2 * x) * place[:, None]

    x, t = torch.randn(4, 3, dtype=torch.float64), 0.3 * process.t_max
    estimate = Model(networks.Preconditioned(inner, process, scale), process, "x0")(x, t)
    raw = Model(networks.Scaled(inner, process, scale), process, row)(x, t)
    assert torch.allclose(convert(raw, x, t, process, row, "x0"), estimate, rtol=1e-10, atol=1e-12)
    a, b = row(process, torch.linspace(0.01, 1, 9, dtype=torch.float64) * process.t_max)
    assert torch.allclose(a**2 * scale**2 + b**2, torch.ones(9, dtype=torch.float64))  # unit targets


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


@pytest.mark.parametrize("prediction", list(PREDICTIONS))
@pytest.mark.parametrize("process", [VP(), VE(), EDM(), Cosine(), Sigmoid(), RectifiedFlow()], ids=repr)
def test_preconditioned_rows_are_the_best_linear_estimates_and_finite(process, prediction):
    """With F = 0: E[a x₀ + b ε | x_t] of N(0, s²) data, exactly; and a number at both ends of time, in float32."""
    scale = 0.7
    net = networks.Preconditioned(networks.MLP(2, width=8), process, scale, PREDICTIONS[prediction])
    model = Model(net.double(), process, prediction)
    exact = targets.Gaussian(torch.zeros(2), scale**2).model(process, prediction)
    x, t = torch.randn(64, 2).double(), torch.linspace(0.05, 0.95, 64).double() * process.t_max
    assert torch.allclose(model(x, t), exact(x, t), rtol=1e-12, atol=1e-12)
    ends = torch.tensor([0.0, process.t_min, process.t_max])
    assert torch.isfinite(net.float()(torch.randn(3, 2), ends)).all()
