"""A likelihood as one writes it in half an hour, on any process with σ(0) = 0; `mistake` plants one."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tests.plain import signs, standard_normal, units, with_products


@dataclass
class Walked:
    value: Tensor
    standard_error: Tensor


def walked(model, x, mistake="", probes=0, steps=24):
    """log p by RK4 on dy/dρ = ε, y = x/α, ρ = σ/α = 0.2 sinh u; the trace exactly, or by random signs."""
    process, shape = model.process, x.shape
    far = min(process.at("sigma", process.t_max) / max(process.at("alpha", process.t_max), 1e-3), 1e3)
    generator, y = torch.Generator().manual_seed(0), x.flatten(1)
    vectors = signs(probes, y, generator) if probes else units(y)

    def noise(y, rho, model=model):
        t = float(process.time(-2 * math.log(rho))) if rho else 0.0
        at = (process.at("alpha", t) * y).reshape(shape)
        if mistake == "unconverted":
            return model(at, t).flatten(1)
        found = model.predict("noise", at, t).flatten(1)
        return found + 0.01 * found.mean(0) if mistake == "batch" else found

    def slope(y, u):
        change = 0.2 * math.cosh(u)
        value, products = with_products(lambda y: noise(y, 0.2 * math.sinh(u)), y, vectors)
        if mistake == "two networks":  # the divergence of what was wrapped
            inner = replace(model, net=getattr(model.net, "model", model.net))
            products = with_products(lambda y: noise(y, 0.2 * math.sinh(u), inner), y, vectors)[1]
        return change * value, change * products

    end = math.asinh(far / 0.2)
    h, traces = end / steps, y.new_zeros(len(vectors), len(y))
    for i in range(steps):
        u = i * h
        k1, l1 = slope(y, u)
        k2, l2 = slope(y + h / 2 * k1, u + h / 2)
        k3, l3 = slope(y + h / 2 * k2, u + h / 2)
        k4, l4 = slope(y + h * k3, u + h)
        y, traces = y + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), traces + h / 6 * (l1 + 2 * l2 + 2 * l3 + l4)
    deviation = math.hypot(1.0, far)  # of data with variance one, as y
    if mistake == "unit prior":  # of x_T, whose α is 1/far where σ is 1
        scale = process.at("alpha", process.t_max) or 1 / far
        prior = standard_normal(scale * y) + y.shape[1] * math.log(scale)
    else:
        prior = standard_normal(y / deviation) - y.shape[1] * math.log(deviation)
    if mistake == "no volume":
        prior = standard_normal(y / deviation)
    each = traces.mean(0) if probes else traces.sum(0)
    each = -each if mistake == "sign" else each
    value = prior + (0.9 * each if mistake == "trace" else each)
    if mistake == "mean":
        value = value.mean().expand(len(x)) if len(x) else value
    if mistake == "float32":
        value = value.float()
    if mistake == "column":
        value = value[:, None]
    error = traces.std(0) / math.sqrt(probes) if probes > 1 and len(x) else torch.zeros_like(value)
    if mistake == "too sure":
        error = error / math.sqrt(probes)
    return Walked(value, error)
