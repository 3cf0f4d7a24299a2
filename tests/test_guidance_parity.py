"""The published implementation of guidance (diffusers' guiders), from the same two predictions."""

import pytest
import torch

from scoresde import VP, guidance
from tests.guides import LABEL, X
from tests.problems import classes


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("original", [False, True])
@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_classifier_free_guidance_of_diffusers(original, rescale):
    """Its `use_original_formulation` is Ho and Salimans' scale; it rescales what the network predicts: here v."""
    guiders = pytest.importorskip("diffusers.guiders", reason="needs the extra bench")
    theirs = guiders.ClassifierFreeGuidance(3.0, guidance_rescale=rescale, use_original_formulation=original)
    theirs.set_state(step=0, num_inference_steps=10, timestep=torch.tensor(500))
    model = classes().model(VP(), "v")
    given = model.given(label=LABEL)
    expected = theirs.forward(given(X, 0.4), model(X, 0.4)).pred
    weight = guidance.from_ho_salimans(3.0) if original else 3.0
    ours = guidance.classifier_free(given, weight, rescale=rescale)(X, 0.4)
    torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
    assert not torch.allclose(guidance.classifier_free(given, weight + 0.1, rescale=rescale)(X, 0.4), expected)
