"""What is asked of a model that is exported: `diffusion.model.Model` is one."""

from pathlib import Path
from typing import Any, Protocol

from diffusion.denoiser import Denoiser
from diffusion.drawing.image_model import ImageModel
from diffusion.evaluation.score_table import ScoreTable


class Trained(Protocol):
    """A trained model; what it is made of is said there."""

    state: dict[str, Any]
    config: dict[str, Any]
    denoiser: Denoiser
    image_model: ImageModel
    scores: ScoreTable | None

    def save(self, path: str | Path) -> None:
        """Write the weights, with the config, as safetensors."""
