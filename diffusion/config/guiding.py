"""What becomes of guidance=auto, so that the config of a run names one kind."""

from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from diffusion.config.settings import Config

AUTOMATIC, LABELLED = "diffusion.guidance.Automatic", "diffusion.guidance.ClassifierFree"
UNLABELLED: Config = {"_target_": "diffusion.guidance.Unconditional"}


def settled(node: Config, class_names: Sequence[str]) -> Config:
    """The node `guidance` of a config for images of these classes, of which there may be none."""
    if node.get("_target_") != AUTOMATIC:
        return node
    return {**node, "_target_": LABELLED} if class_names else dict(UNLABELLED)


def settle(cfg: DictConfig, image: Config) -> None:
    """Let the guidance of a composed config be what it became for the images of a checkpoint, {"class_names": …}."""
    node: Any = OmegaConf.to_container(cfg.guidance, resolve=True)
    with open_dict(cfg):
        cfg.guidance = settled(node, image["class_names"])
