"""Files of weights from strangers: no memory is taken, and what is wrong is one sentence."""

import pytest
import torch
from hostile import SAFETENSORS, careful, read_or_refused, told
from safetensors.torch import save

from diffusion.records import checkpoint

pytestmark = careful


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_hostile_safetensors_file_is_refused(name, tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(SAFETENSORS[name])
    assert "file.safetensors" in told(checkpoint.load, path)


@pytest.mark.parametrize("kind", ["safetensors"])
def test_damaged_files_are_read_or_refused(kind, tmp_path):
    weights = save({"w": torch.randn(4, 4)}, {"simple_diffusion": "{}"})
    read_or_refused(tmp_path / f"weights.{kind}", weights, checkpoint.load)
