"""Which noise goes with which data point of a batch."""

from __future__ import annotations

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from scoresde import _checks

KINDS = ("independent", "optimal")


def couple(x0: Tensor, noise: Tensor, kind: str = "independent", label: Tensor | None = None) -> Tensor:
    """The batch's noise in another order: as it is, or the one that minimises Σ ‖x₀ − ε‖².

    "optimal" solves the batch's assignment problem exactly, in O(B³) on the host. The noise as a whole stays normal,
    but ε and x₀ of a pair now depend on each other. What that leaves: the velocity E[α̇ x₀ + σ̇ ε | x_t] still moves
    the law of x_t, on straighter paths, so that the ODE's samples, latents and likelihoods stay right. What it takes:
    −ε/σ is no longer the score of x_t, nor is x_t given x₀ normal. So do not read a score from such a model, do not
    sample it by an SDE, do not take its `elbo` or `vlb`.

    The ends of time are corrected for independent pairs elsewhere: give the model no moments and `log_prob` the
    prior="standard", and expect errors of the order of σ/α = 0.001 from the last step (`DDIM` corrects nothing).

    Args:
        x0, noise: (B, *). kind: "independent" or "optimal".
        label: (B,) integers, where the network is given them: pairs are exchanged among equal labels only. Without,
            the noise that belongs to one label is no longer normal, and what is sampled for that label is wrong.
    Returns:
        (B, *), the rows of noise permuted.
    Raises:
        TypeError, ValueError: an unknown kind, or shapes that differ.

    Example:
        >>> import torch
        >>> couple(torch.tensor([[0.0], [5.0]]), torch.tensor([[1.0], [-1.0]]), "optimal")
        tensor([[-1.],
                [ 1.]])

    Reference: Tong et al. (2023), arXiv 2302.00482; Pooladian et al. (2023), 2304.14772; docs/theory, eq. 49.
    """
    _checks.choice("coupling kind", kind, KINDS)
    _checks.shape_like("noise", _checks.state("noise", noise), _checks.state("x0", x0), "x0")
    if label is not None and _checks.kind("label", label, Tensor, "torch.tensor([0, 1])").shape != x0.shape[:1]:
        raise ValueError(f"label must have shape ({len(x0)},), got {tuple(label.shape)}")
    if kind == "independent" or len(x0) < 2:
        return noise
    gain = (x0.detach().flatten(1).double() @ noise.detach().flatten(1).double().mT).cpu().numpy()
    order = torch.empty(len(x0), dtype=torch.long)
    groups = [torch.arange(len(x0))] if label is None else [(label.cpu() == k).nonzero()[:, 0] for k in label.unique()]
    for rows in groups:  # Σ ‖x₀ − ε‖² is least where Σ x₀·ε is largest
        i = rows.numpy()
        order[rows] = rows[torch.from_numpy(linear_sum_assignment(gain[i[:, None], i], maximize=True)[1])]
    return noise[order.to(noise.device)]
