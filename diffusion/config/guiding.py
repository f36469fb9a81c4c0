"""What guidance=auto and guidance=null become: null, no option to Hydra, is auto or what a run brings, and auto the one
kind that its images allow, which the config of the run then names."""

import logging
from collections.abc import Sequence
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from diffusion.config.settings import Config

log = logging.getLogger("diffusion")
AUTOMATIC, LABELLED = "diffusion.guidance.Automatic", "diffusion.guidance.ClassifierFree"
UNLABELLED: Config = {"_target_": "diffusion.guidance.Unconditional"}


def without_null(arguments: Sequence[str], script: str) -> list[str]:
    """The command line without `guidance=null`: auto in its place, or nothing where a run brings its guidance."""
    brought = script != "train" or any(a.startswith(("resume=", "checkpoint=")) for a in arguments)
    result = []
    for argument in arguments:
        name, _, value = argument.partition("=")
        if name == "guidance" and value.lower() == "null" and brought:
            continue
        if name == "guidance":
            parts = ["auto" if part.strip().lower() == "null" else part for part in value.split(",")]
            argument = f"guidance={','.join(parts)}"
        result.append(argument)
    return result


def settled(node: Config, class_names: Sequence[str], data: str = "") -> Config:
    """The node `guidance` of a config for images of these classes, of which there may be none.

    Args:
        data: the name of the images, to tell in the log that they have no labels.
    """
    if node.get("_target_") != AUTOMATIC:
        return node
    if class_names:
        return {**node, "_target_": LABELLED}
    if data:
        text = "data=%s has no labels: the model is trained and draws without guidance; its settings have no effect."
        log.info(text, data)
    return dict(UNLABELLED)


def settle(cfg: DictConfig, image: Config) -> None:
    """Let the guidance of a composed config be what it became for the images of a checkpoint, {"class_names": …}."""
    node: Any = OmegaConf.to_container(cfg.guidance, resolve=True)
    with open_dict(cfg):
        cfg.guidance = settled(node, image["class_names"])
