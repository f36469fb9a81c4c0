"""Runs from when one class was a label: drawn from and scored as before, and told when they cannot go on."""

import pytest
import torch

from diffusion.config.training_run import described
from diffusion.data.images import ImageData, Images
from diffusion.system.errors import UserError

GUIDED = {"_target_": "diffusion.guidance.ClassifierFree"}
UNGUIDED = {"_target_": "diffusion.guidance.Unconditional"}


def cats():
    images = Images(torch.full((4, 1, 8, 8), 9, dtype=torch.uint8), torch.zeros(4, dtype=torch.long))
    return ImageData("cats", images, images, ["all"])


def before(guidance):
    """The checkpoint of a run of then, as far as it is looked at."""
    return {"config": {"guidance": guidance}, "image": {**cats().describe(), "class_names": ["all"]}}


@pytest.mark.parametrize("key", ["resume", "checkpoint"])
def test_a_run_with_one_label_is_told(key):
    resume, start = (before(GUIDED), None) if key == "resume" else (None, before(GUIDED))
    with pytest.raises(UserError, match=f"{key}: this run took the one class of data=cats for a label"):
        described(cats(), resume, start)


def test_a_run_that_did_not_look_at_its_label_goes_on():
    assert described(cats(), before(UNGUIDED), None) == before(UNGUIDED)["image"]


def test_a_new_run_has_none():
    assert described(cats(), None, None)["class_names"] == []
