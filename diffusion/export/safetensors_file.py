"""to=safetensors: the weights, with the config in the metadata; `diffusion.load` and checkpoint= read it."""

from pathlib import Path

from diffusion.export.trained import Trained


def export_safetensors(model: Trained, path: Path, weights: str = "fp32") -> None:
    """Write what `Model.save` writes; weights are fp32."""
    model.save(path)
