"""to=safetensors: the weights, with the config in the metadata; `diffusion.load` and checkpoint= read it."""

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffusion.model import Model


def export_safetensors(model: "Model", path: Path, weights: str = "fp32") -> None:
    """Write what `Model.save` writes; weights are fp32."""
    model.save(path)
