"""Networks: plain torch modules (x, t) -> y."""

from scoresde.networks.mlp import MLP, Scaled, TimeEmbedding

__all__ = ["MLP", "Scaled", "TimeEmbedding"]
