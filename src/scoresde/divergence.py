"""The divergence of a vector field: exactly, or by probes that a sample keeps along its whole path."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from scoresde import _checks
from scoresde.process.base import FORWARD, randn

EXACT_UP_TO = 256
"""The dimension up to which "auto" is exact."""

KINDS = ("auto", "exact", "hutchinson", "gaussian", "orthogonal", "hutch++")

Field = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Probes:
    """How the divergence is taken: `vectors` (k, B, D) and a `sketch` (m, B, D) for Hutch++; exactly, without either.

    columns: how many estimates a sample has. products: Jacobian products an evaluation takes.
    """

    dim: int
    vectors: Tensor | None = None
    sketch: Tensor | None = None
    correction: float = 1.0
    chunk: int = 2**14

    @staticmethod
    def draw(kind: str, count: int, x: Tensor, generator: torch.Generator | None, chunk: int = 2**14) -> Probes:
        """Probes for samples like x: (B, *); of Hutch++'s `count` products a third each sketch, project and probe."""
        _checks.choice("divergence", kind, KINDS)
        size, dim = len(x), math.prod(x.shape[1:])
        if kind == "exact" or (kind == "auto" and dim <= EXACT_UP_TO):
            _checks.room("divergence='exact'", 1, dim, "write divergence='hutchinson'")
            return Probes(dim, chunk=chunk)
        if kind == "hutch++":
            if count < 3:
                raise ValueError(f"probes must be at least 3 for hutch++, which divides them by three, got {count}")
            part = min(count // 3, dim)
            signs = _signs(randn((part + count - 2 * part, size, dim), generator, x.device, x.dtype))
            return Probes(dim, signs[part:], signs[:part], chunk=chunk)
        if kind == "orthogonal":
            if count > dim:
                raise ValueError(f"probes must be at most D = {dim} to be orthogonal, got {count}")
            normal = randn((size, dim, count), generator, x.device, torch.float64)
            axes = torch.linalg.qr(normal)[0] * math.sqrt(dim)
            return Probes(dim, axes.permute(2, 0, 1).to(x.dtype), correction=math.sqrt(1 - count / dim), chunk=chunk)
        normal = randn((count, size, dim), generator, x.device, x.dtype)
        return Probes(dim, normal if kind == "gaussian" else _signs(normal), chunk=chunk)

    @property
    def exact(self) -> bool:
        return self.vectors is None

    @property
    def columns(self) -> int:
        return 1 if self.vectors is None else len(self.vectors)

    @property
    def products(self) -> int:
        if self.vectors is None:
            return self.dim
        return len(self.vectors) + (0 if self.sketch is None else 2 * len(self.sketch))

    def rows(self, index: Tensor) -> Probes:
        """The probes of some of the samples."""
        vectors, sketch = (None if v is None else v[:, index] for v in (self.vectors, self.sketch))
        return Probes(self.dim, vectors, sketch, self.correction, self.chunk)

    def of(self, field: Field, z: Tensor) -> tuple[Tensor, Tensor]:
        """field(z): (B, D), and estimates of its divergence (B, columns)."""
        if self.vectors is None:
            eye = torch.eye(self.dim, dtype=z.dtype, device=z.device)[:, None].expand(-1, *z.shape)
            value, trace = products(field, z, eye, self.chunk)
            return value, trace.sum(1, keepdim=True)
        if self.sketch is None:
            return products(field, z, self.vectors, self.chunk)
        # Hutch++: exact on the range Q of J S, probes for the rest
        _, images = pushed(field, z, self.sketch, self.chunk)
        basis = torch.linalg.qr(images.permute(1, 2, 0))[0].permute(2, 0, 1)
        value, found = products(field, z, basis, self.chunk)
        inside = torch.einsum("kbi,jbi->kbj", self.vectors, basis)
        rest = self.vectors - torch.einsum("kbj,jbi->kbi", inside, basis)
        return value, found.sum(1, keepdim=True) + products(field, z, rest, self.chunk)[1]

    def standard_error(self, each: Tensor) -> Tensor:
        """Of the mean of estimates (B, columns): 0 where exact, infinite where one probe leaves it unknown."""
        if self.vectors is None or self.correction == 0.0:
            return each.new_zeros(len(each))
        if each.shape[1] == 1:
            return each.new_full((len(each),), math.inf)
        return each.std(1) / math.sqrt(each.shape[1]) * self.correction


def _signs(normal: Tensor) -> Tensor:
    return torch.where(normal > 0, 1.0, -1.0).to(normal)


def pushed(field: Field, z: Tensor, vectors: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """field(z): (B, D), and J v for vectors (k, B, D), by forward mode, `chunk` rows at once."""

    def push(v: Tensor) -> tuple[Tensor, Tensor]:
        value, image = torch.func.jvp(field, (z,), (v,))  # pyright: ignore[reportAssignmentType]
        return value, image

    value, images = z, []
    for piece in vectors.split(max(1, chunk // max(1, len(z)))):
        try:
            with FORWARD:
                value, image = torch.vmap(push, out_dims=(None, 0), randomness="same")(piece.contiguous())  # pyright: ignore
        except RuntimeError as error:
            raise ValueError(
                f"net cannot be differentiated forwards ({str(error).splitlines()[0][:120]}); call net.eval(), "
                "or give its own autograd functions a jvp and generate_vmap_rule"
            ) from error
        images.append(image)
    return value, torch.cat(images)


def products(field: Field, z: Tensor, vectors: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    """field(z): (B, D), and vᵀJv for vectors (k, B, D): (B, k)."""

    value, traces = z, []
    for piece in vectors.split(max(1, chunk // max(1, len(z)))):  # reduced at once: images of all would fill memory
        value, images = pushed(field, z, piece, chunk)
        traces.append((images * piece).sum(-1))
    return value, torch.cat(traces).mT
