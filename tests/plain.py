"""A likelihood as most codes have it, written anew: RK4 on the process's own equation; `mistake` plants one."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass
class Answer:
    value: Tensor
    standard_error: Tensor
    nfe: int


def standard_normal(x):
    return -0.5 * (x.square() + math.log(2 * math.pi)).sum(-1)


def signs(k, x, generator):
    return (torch.randint(2, (k, *x.shape), generator=generator) * 2 - 1).to(x)


def with_products(function, x, vectors):
    """function(x), and vᵀJv for each of vectors (k, B, D): (k, B)."""
    value, pull = torch.func.vjp(function, x)
    return value, (torch.vmap(lambda v: pull(v)[0])(vectors) * vectors).sum(-1)


def units(x):
    return torch.eye(x.shape[1], dtype=x.dtype)[:, None].expand(-1, *x.shape)


def plain(model, x, *, divergence="exact", probes=1, steps=40, generator=None, mistake=""):
    """log p by RK4 on rectified flow from data to noise."""
    exact = divergence == "exact"
    vectors, calls = units(x) if exact else signs(probes, x, generator), 0

    def slope(t, z):
        nonlocal calls
        calls += 1
        probe = signs(probes, x, generator) if mistake == "resampled" else vectors
        value, products = with_products(lambda z: model(z, t), z, probe)
        return value, products.sum(0, keepdim=True) if exact else products

    z, logs, h = x, x.new_zeros(1 if exact else probes, len(x)), 1 / steps
    for i in range(steps):
        k1, l1 = slope(i * h, z)
        k2, l2 = slope((i + 0.5) * h, z + h / 2 * k1)
        k3, l3 = slope((i + 0.5) * h, z + h / 2 * k2)
        k4, l4 = slope(min((i + 1) * h, 1.0), z + h * k3)
        z, logs = z + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), logs + h / 6 * (l1 + 2 * l2 + 2 * l3 + l4)
    each = standard_normal(z) + (-logs if mistake == "reversed" else logs)
    error = each.std(0) / math.sqrt(len(each)) if len(each) > 1 else torch.zeros(len(x))
    value = {"summed": standard_normal(z) + logs.sum(0), "last": each[-1]}.get(mistake, each.mean(0))
    return Answer(value, error, calls // 4 if mistake == "steps for calls" else calls)


def planted(mistake):
    return lambda model, x, **options: plain(model, x, mistake=mistake, **options)
