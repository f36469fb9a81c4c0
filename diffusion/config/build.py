"""Config → objects: the only wiring.

Each group of the config is a dictionary whose `_target_` names a class of this package and whose other keys are
arguments of its constructor. `build` checks the keys and their types against the constructor's signature, creates
the object, and puts the name of the setting in front of whatever the constructor objects to. `Recipe` holds what a
model is made of besides its weights; `diffusion.config.training_run` makes a whole run.
"""

import inspect
import logging
from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from diffusion.config import own_parts, trust
from diffusion.config.resuming import check_shape, moved_data
from diffusion.config.settings import Config, allowed_target, check_arguments, in_context, without_target
from diffusion.data.shapes import padded
from diffusion.data.splits import number_as
from diffusion.denoiser import Denoiser
from diffusion.evaluation.scoring import Scorer
from diffusion.system import ranks
from diffusion.system.device import physical_memory
from diffusion.system.errors import UserError
from diffusion.system.randomness import NETWORK, stream

log = logging.getLogger("diffusion")
FOREIGN = "The checkpoint's weights do not belong to the model that its config describes."


def build(node: Config | DictConfig, key: str, offer: Config | None = None, **live: Any) -> Any:
    """The object that a config node describes.

    Args:
        node: {"_target_": "diffusion.…", argument: value, …}.
        key: name of the node in the config, for messages.
        offer: further arguments, for the constructors that know them.
        live: further arguments, objects that no config can hold.

    Raises:
        UserError: unknown or missing setting, wrong type, value that the constructor refuses, forbidden target.
    """
    settings: Any = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    if not isinstance(settings, dict) or "_target_" not in settings:
        raise UserError(f"{key} must choose one of the options of its config group, not {settings!r}.")
    name = str(settings["_target_"])
    target, settings, own = allowed_target(name, key), without_target(settings), trust.covering(name) is not None
    live |= {name: value for name, value in (offer or {}).items() if name in inspect.signature(target).parameters}
    if own:
        own_parts.check_takes(target, key, name, live.keys())
    check_arguments(target, settings, key, live.keys())
    try:
        made = target(**settings, **live)
    except (torch.OutOfMemoryError, UserError):  # which have sentences of their own
        raise
    except Exception as error:
        if own and not (isinstance(error, ValueError) and str(error).startswith(tuple(f"{s}=" for s in settings))):
            raise own_parts.failed(error, key, name) from error
        if not isinstance(error, ValueError | TypeError | RuntimeError | MemoryError | OverflowError):
            raise
        raise UserError(in_context(key, settings, error)) from error
    return own_parts.checked(made, key, name, settings) if own else made


# ------------------------------------------------------------------------------------------------- a model


class Recipe:
    """What a model is made of besides its weights, each part built once from its config.

    Args:
        config: of the run.
        image: what the network sees, from `ImageData.describe`.

    Attributes:
        guidance, schedule, objective, loss: the parts.
        sampler, preview: how the run draws, and how it draws on the way; None where the config has none.

    Raises:
        UserError: a setting does not fit, or needs labels that the data has not.
    """

    def __init__(self, config: Config, image: Config) -> None:
        self.config, self.image = config, image
        self.guidance = build(config["guidance"], "guidance")
        if self.guidance.conditional and not image["class_names"]:
            raise UserError(
                "guidance=classifier_free needs labels, and the data has none: leave it out, or use guidance=none."
            )
        self.num_classes = len(image["class_names"]) if self.guidance.conditional else 0
        try:
            self.guidance.check(self.num_classes)
        except ValueError as error:
            raise UserError(in_context("guidance", config["guidance"], error)) from error
        self.loss = build(measured(config["loss"], image), "loss")
        self.schedule = build(config["schedule"], "schedule")
        self.objective = build(measured(config["objective"], image), "objective")
        self.sampler = build(config["sampler"], "sampler") if "sampler" in config else None
        self.preview = build(config["preview"], "preview") if "preview" in config else None

    def network(self, seed: int, weights: dict[str, torch.Tensor] | None = None) -> nn.Module:
        """A network, on the CPU.

        Args:
            seed: of its weights, which depend on nothing else.
            weights: to fill it with instead.

        Raises:
            UserError: a setting or the weights do not fit, or the network does not fit in memory.
        """
        name = str(self.config["model"]["_target_"])
        own = trust.covering(name) is not None
        skeleton = self.skeleton()
        shapes = {name: value.shape for name, value in skeleton.state_dict().items()}
        tables = sum(value.nbytes for value in skeleton.buffers())  # of positions, for example
        if weights is not None and shapes != {name: value.shape for name, value in weights.items()}:
            raise UserError(FOREIGN)
        count = sum(value.numel() for value in shapes.values())
        if 4 * count + tables > physical_memory() or tables > 2**30:
            raise UserError(
                f"model: {count / 1e9:,.1f} billion weights and {tables / 2**30:,.0f} GiB of tables are more than fit "
                "in memory: give a smaller model.width, fewer levels and blocks, or a larger patch."
            )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(seed, NETWORK).initial_seed())
            network = self.new_network()
        if weights is not None:
            try:
                network.load_state_dict(weights)
            except RuntimeError as error:
                raise UserError(FOREIGN) from error
        if own:
            own_parts.check_network(network, name, **self.shape)
        return network

    @property
    def shape(self) -> Config:
        """What a network is told of its images, besides its settings."""
        image, heads = self.image, 2 if self.loss.learns_variance else 1
        shape = {"channels": image["channels"], "image_size": padded(image["size"], image["padding"])}
        return {**shape, "num_classes": self.num_classes, "out_channels": heads * image["channels"]}

    def new_network(self) -> nn.Module:
        """A network of new weights."""
        return build(self.config["model"], "model", **self.shape)

    def skeleton(self) -> nn.Module:
        """A network in shapes without memory: a config can ask for any size."""
        return skeleton_of(self.new_network, trust.covering(str(self.config["model"]["_target_"])) is not None)

    def denoiser(self, network: nn.Module) -> Denoiser:
        """Network, schedule and objective as one, checked against the loss and the samplers."""
        try:
            loss = self.loss
            denoiser = Denoiser(network, self.schedule, self.objective, loss.learns_variance, loss.margin)
            self.loss.check(denoiser)
            if self.sampler is not None:  # refused now rather than after training
                self.sampler.check(self.guidance.guide(denoiser))
        except ValueError as error:
            raise UserError(f"{error}.") from error
        try:
            if self.preview is not None:
                self.preview.check(self.guidance.guide(denoiser))
        except ValueError as error:  # the preview is a sampler, too
            raise UserError(f"{error}.".replace("sampler", "preview")) from error
        return denoiser


def skeleton_of(make: Callable[[], nn.Module], own: bool) -> nn.Module:
    """What `make` makes, in shapes without memory."""
    try:
        with torch.device("meta"):
            return make()
    except UserError:
        if not own:
            raise
    with torch.random.fork_rng(devices=[]):  # a network of the user's may need real numbers to be made
        return make()


def measured(node: Config, image: Config) -> Config:
    """A node whose `sigma_data` is null, with the value that was measured on the training images."""
    return {**node, "sigma_data": image["sigma_data"]} if node.get("sigma_data", 0) is None else node


def build_data(node: Config | DictConfig) -> Any:
    """The images of a config; several processes download them once."""
    return ranks.by_first(lambda: build(node, "data"))


def data_of(state: Config, node: DictConfig | None = None) -> Any:
    """The images of a checkpoint's config, or of a node in its place; their classes in the order of the model's.

    A node without a `_target_` changes settings of the checkpoint's own, such as the root.
    """
    data = build_data(moved_data(state["config"]["data"], node))
    check_shape(data, state["image"])
    number_as(data, state["image"]["class_names"])
    return data


def build_scorer(features: Config | DictConfig, data: Any, device: Any) -> Scorer:
    """What scores images against `data`, by the extractor of the config group `features`."""
    # The first process caches for the others what is computed once.
    return ranks.by_first(lambda: Scorer(build(features, "features", data=data, device=device.torch_device)))
