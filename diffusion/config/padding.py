"""What becomes of data.padding=auto: the least that the network can halve and cut into patches, in pixels."""

import logging
from collections.abc import Sequence

from omegaconf import DictConfig

from diffusion.config import trust
from diffusion.config.settings import Config, allowed_target, arguments_of, without_target
from diffusion.data.images import ImageData
from diffusion.data.shapes import AUTO, MOST_PADDING, in_words, padded, pair, short
from diffusion.system.errors import UserError

log = logging.getLogger("diffusion")


def least(size: int | Sequence[int], model: Config) -> int | list[int]:
    """The padding of images of a size for the network of a config's node `model`, half of it on each side.

    Raises:
        UserError: it would be more than images can have, or a network of the user's own cannot tell.
    """
    name = str(model.get("_target_"))
    fitting_side, own = getattr(allowed_target(name, "model"), "fitting_side", None), trust.covering(name)
    if fitting_side is None:
        return 0
    sides: list[int] = []
    for side in pair(size):
        try:
            more = max(fitting_side(side, **without_target(model)) - side, 0)
        except Exception as error:
            if own is not None:
                raise UserError(
                    f"data.padding=auto: {name}.fitting_side fails for {side} pixels: {trust.told(error, own)}."
                ) from error
            if not isinstance(error, TypeError | ValueError | ArithmeticError | MemoryError):
                raise
            return 0  # a setting that the network refuses by itself
        sides += [more // 2, more - more // 2]
    if max(sides) > MOST_PADDING:
        raise UserError(
            f"data.padding=auto: this network can halve images of {in_words(size)} pixels only with more than "
            f"{MOST_PADDING} around them: give it fewer levels or a smaller patch, or a larger data.image_size."
        )
    return short(sides)


def choose(config: Config, data: ImageData) -> None:
    """Let data.padding=auto, in the config of a run and in its images, be pixels."""
    if data.padding == AUTO:
        data.padding = found = least(data.image_size, config["model"])
        if "padding" in arguments_of(allowed_target(str(config["data"].get("_target_")), "data")):
            config["data"] = {**config["data"], "padding": found}
        log.info(
            "data.padding=auto is %s: the network sees %s pixels.", found, in_words(padded(data.image_size, found))
        )


def settle(cfg: DictConfig, state: Config) -> None:
    """Let data.padding=auto in a composed config be what it became, or would have, for the run of a checkpoint."""
    if cfg.data.get("padding") == AUTO:
        cfg.data.padding = least(state["image"]["size"], state["config"]["model"])
