"""Derivatives of networks of every kind and order: what likelihoods and their gradients stand on."""

import copy
import math

import pytest
import torch
from torch import nn

from scoresde import VP, Model, log_prob, networks
from scoresde.divergence import Probes
from scoresde.networks.elementary import differentiable
from tests.nets import case, directions, every_net, relative, stirred


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
