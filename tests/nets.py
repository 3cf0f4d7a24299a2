"""Small networks of every kind, with no weight at zero, and states to ask them at."""

import pytest
import torch

from scoresde import EDM, VP, networks

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
