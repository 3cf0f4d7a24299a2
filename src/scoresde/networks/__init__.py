"""Networks: plain torch modules (x, t, **cond) -> y."""

from scoresde.networks.adapter import TIMES, Adapter
from scoresde.networks.dit import DiT
from scoresde.networks.embedding import TimeEmbedding
from scoresde.networks.mlp import MLP, Classifier
from scoresde.networks.precondition import Preconditioned, Scaled
from scoresde.networks.recorded import Recorded
from scoresde.networks.unet import UNet

NETWORKS: dict[str, type[Recorded]] = {
    network.__name__: network for network in (MLP, UNet, DiT, Classifier, Scaled, Preconditioned, Adapter)
}
"""Name → class of the networks that a checkpoint may build. Your own, a subclass of `Recorded`, is one line:
NETWORKS["Mine"] = Mine."""

__all__ = [
    "MLP", "NETWORKS", "TIMES", "Adapter", "Classifier", "DiT", "Preconditioned", "Recorded", "Scaled",
    "TimeEmbedding", "UNet",
]  # fmt: skip
