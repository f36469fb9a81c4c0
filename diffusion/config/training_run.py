"""Config → the trainer of a run, with all it needs: data, network, average, optimizer, scores."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from diffusion.config import guiding, padding, starting
from diffusion.config.build import Recipe, build, build_data, build_scorer, measured
from diffusion.config.changed_images import check_same_images
from diffusion.config.judging import check_measurable, check_measured
from diffusion.config.opening import recorded
from diffusion.config.settings import Config, check_types, in_context
from diffusion.data.splits import number_as
from diffusion.drawing.image_model import ImageModel
from diffusion.records import checkpoint
from diffusion.records.trackers import choose
from diffusion.system import ranks
from diffusion.system.errors import UserError, brief

log = logging.getLogger("diffusion")


def build_trainer(
    config: Config,
    folder: Path,
    resume: Config | None = None,
    start: Config | None = None,
    group: str | None = None,
) -> Any:
    """The trainer of a run with everything it needs; the caller closes `trainer.tracker`.

    Args:
        config: plain and resolved; guidance=auto and data.padding=auto in it become what they are for these images, and
            what is left open as model.width=auto what suits the length of the run.
        folder: of the run.
        resume: the checkpoint to go on from.
        start: the checkpoint whose averaged weights a new run starts from.
        group: name of the sweep that the run is part of.
    """
    from diffusion.config import automatic  # here: who draws from a model needs nothing of this
    from diffusion.training import tuning
    from diffusion.training.loop import Trainer

    if resume is not None and resume["optimizer"] is None:
        raise UserError(
            "resume: that file holds a model's weights alone: give a run, or train on from it by checkpoint=."
        )
    if config["seed"] < 0:
        raise UserError(f"seed={config['seed']} must be 0 or more.")
    check_types(config)
    device, data = build(config["device"], "device"), build_data(config["data"])
    log.info("Data: %s, %d + %d images. Device: %s.", data.name, len(data.train), len(data.test), device.describe())
    padding.choose(config, data)
    image = described(data, resume, start)
    if resume is not None:
        check_same_images(data.name, image, resume, config, folder)
    config["guidance"] = guiding.settled(config["guidance"], image["class_names"], data.name)
    chosen = automatic.choose(
        config, data, image, device, lambda recipe, place, plan: parts_of(recipe, recipe.network(0), data, place, plan)
    )
    recipe, plan = Recipe(config, image), build(config["training"], "training")
    parts = parts_of(recipe, network_of(recipe, resume, start), data, device, plan)
    network, ema = parts.network, parts.ema
    size = sum(parameter.numel() for parameter in network.parameters())
    log.info("Network: %s, %.2f million parameters.", type(network).__name__, size / 1e6)
    tracker = choose(config.get("track", "tensorboard"), folder, resume["step"] + 1 if resume else 0, group)
    monitor = build(
        {"_target_": "diffusion.training.monitor.Monitor", **config["score"]},
        "score",
        model=ImageModel(recipe.denoiser(ema.network), recipe.guidance, device, image),
        sampler=recipe.preview,
        parts=parts,
        tracker=tracker,
        folder=folder,
    )
    header, own = {"config": config, "image": image}, recorded(config)
    header |= {"own_parts": own} if own else {}
    if tuned := tuning.opened(resume) if resume is not None else tuning.begun(chosen.tuned):
        header["tuned"] = tuned
    try:
        trainer = Trainer(parts, plan, monitor, tracker, folder, config["seed"], header)
    except (ValueError, OverflowError) as error:  # of a length that is none for so many images
        raise UserError(in_context("training", config["training"], error)) from error
    trainer.state.spent, trainer.progress.threads = min(chosen.spent, (plan.seconds or 0.0) / 2), chosen.threads
    if resume is not None:
        go_on(trainer, resume)
    open_places(trainer, config)
    return trainer


def parts_of(recipe: Recipe, network: nn.Module, data: Any, device: Any, plan: Any) -> Any:
    """The parts of a training, of a network that is on the CPU yet."""
    from diffusion.training.parts import Parts

    config, network = recipe.config, device.place(network, plan.seconds)
    return Parts(
        denoiser=recipe.denoiser(network),
        ema=build(config["ema"], "ema", network=network),
        optimizer=build(config["optimizer"], "optimizer", params=trained(network, plan, config)),
        data=data,
        guidance=recipe.guidance,
        timesteps=build(config["timesteps"], "timesteps", {"schedule": recipe.schedule}),
        loss=recipe.loss,
        device=device,
    )


def network_of(recipe: Recipe, resume: Config | None, start: Config | None) -> nn.Module:
    """A network with the weights of the run that goes on, the averaged ones of the run it starts from, or new ones."""
    network = recipe.network(recipe.config["seed"], None if resume is None else resume["network"])
    if start is not None:
        same_heads(recipe, start)
        starting.start_from(start, network, recipe)
    return network


def trained(network: nn.Module, plan: Any, config: Config) -> list[nn.Parameter]:
    """The parameters of a network but those that training.freeze names, which stay as they are."""
    from diffusion.training.freezing import freeze

    try:
        freeze(network, plan.freeze or [])
    except ValueError as error:
        raise UserError(in_context("training", config["training"], error)) from error
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def open_places(trainer: Any, config: Config) -> None:
    """Open what a run is shown in, and give it its scorer; `UserError` where it cannot measure what it is to."""
    data, score = trainer.parts.data, config["score"]
    few = min(len(data.train), len(data.test))
    check_measured(trainer, score, few)
    ranks.first_alone(trainer.tracker.begin)
    try:
        if score["n"] and few < 2:
            log.warning("Scores are left out: they need at least 2 test images, and data=%s has %d.", data.name, few)
        elif not score["n"] and "tuned" in trainer.header:
            trainer.monitor.judge = at_hand(config["features"], data, trainer.parts.device)
        elif score["n"]:  # last, because for new data it trains a classifier first
            trainer.monitor.scorer = build_scorer(config["features"], data, trainer.parts.device)
            check_measurable(trainer)
    except BaseException:
        trainer.tracker.close()
        raise


def at_hand(features: Config, data: Any, device: Any) -> Callable[[], Any] | None:
    """Makes what compares images with those of `data`, where the package brings a classifier for it; else None."""
    from diffusion.evaluation.reference import reference_of

    kind = str(features["_target_"]).rpartition(".")[2]
    if data.packaged_scorer is None or kind not in ("automatic", "ClassifierFeatures") or features.get("weights"):
        return None
    place = device.torch_device
    return lambda: ranks.by_first(lambda: reference_of(build(features, "features", data=data, device=place)))


def described(data: Any, resume: Config | None, start: Config | None) -> Config:
    """What a network must know of the images, with the classes in the order of the run before, where there is one."""
    earlier = resume or start
    if earlier is not None:
        number_as(data, earlier["image"]["class_names"])
    image, key = data.describe(), "resume" if resume is not None else "checkpoint"
    if earlier is not None and len(earlier["image"]["class_names"]) == 1 and not image["class_names"]:
        if build(earlier["config"]["guidance"], "guidance").conditional:
            raise UserError(
                f"{key}: this run took the one class of data={data.name} for a label, and one class is none any more: "
                "draw from it and score it as before, but start a new run to train on."
            )
        if resume is not None:
            image["class_names"] = earlier["image"]["class_names"]
    try:
        checkpoint.check_image(image)
    except ValueError as error:
        raise UserError(f"data={data.name}: {error}.") from error
    return image


def same_heads(recipe: Recipe, start: Config) -> None:
    """Raise `UserError` when only one of a run and the run it starts from learns the variance."""
    had = build(measured(start["config"]["loss"], recipe.image), "loss").learns_variance
    if had != recipe.loss.learns_variance:
        raise UserError(
            f"checkpoint={recipe.config.get('checkpoint')} was trained {'with' if had else 'without'} loss=hybrid, "
            f"whose network has a second head for the variance: {'add' if had else 'leave out'} loss=hybrid."
        )


def go_on(trainer: Any, resume: Config) -> None:
    """Put a trainer where a checkpoint left off."""
    try:
        trainer.state.load_state_dict(resume)
    except torch.OutOfMemoryError:
        raise
    except (KeyError, IndexError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"resume: the state of that checkpoint is not whole ({brief(error)}).") from error
    progress, config = trainer.progress, trainer.state.header["config"]
    about = "about " if trainer.plan.budget is not None else ""
    log.info("Resuming at step %d of %s%d.", progress.step, about, progress.total_steps)
    if any(resume["config"][name] != config[name] for name in ("score", "preview", "features")):
        trainer.state.best.forget()  # scores of another protocol do not compare
