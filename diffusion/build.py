"""Config → objects: the only wiring, and the checks that turn a wrong setting into one sentence.

Each group of the config is a dictionary whose `_target_` names a class of this package and whose other keys are
arguments of its constructor. `build` checks the keys and their types against the constructor's signature, creates
the object, and puts the name of the setting in front of whatever the constructor objects to.
"""

import difflib
import inspect
import logging
import types
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

import torch
from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf
from torch import nn

from diffusion import checkpoint
from diffusion.errors import UserError

log = logging.getLogger("diffusion")
Config = dict[str, Any]
# What a resumed run may change: its length, what it logs, and where it computes.
RESUMABLE = (
    *(f"training.{name}" for name in ("images", "epochs", "steps", "held_out", "workers")),
    *(f"training.{name}_every" for name in ("log", "checkpoint", "preview", "evaluate")),
    *("device", "score", "preview", "features", "resume"),
)
TRAINED_WITH = ("data", "model", "schedule", "objective", "timesteps", "guidance", "ema", "optimizer", "seed")


# ------------------------------------------------------------------------------------------ one object


def build(node: Config | DictConfig, key: str, **live: Any) -> Any:
    """The object that a config node describes.

    Args:
        node: {"_target_": "diffusion.…", argument: value, …}.
        key: name of the node in the config, for messages.
        live: further arguments, objects that no config can hold.

    Raises:
        UserError: unknown or missing setting, wrong type, value that the constructor refuses, forbidden target.
    """
    settings = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else dict(node)
    if not isinstance(settings, dict) or "_target_" not in settings:
        raise UserError(f"{key} must choose one of the options of its config group, not {settings!r}.")
    target, settings = allowed_target(str(settings["_target_"]), key), without_target(settings)
    check_arguments(target, settings, key, live.keys())
    try:
        return target(**settings, **live)
    except (ValueError, TypeError) as error:
        raise UserError(in_context(key, settings, error)) from error


def without_target(node: Config) -> Config:
    """The arguments of a node."""
    return {name: value for name, value in node.items() if name != "_target_"}


def in_context(key: str, settings: Config, error: Exception) -> str:
    """A constructor's objection as a sentence that starts with the full name of the setting."""
    message = " ".join(str(error).split()).rstrip(".")
    starts_with_setting = any(message.startswith(f"{name}=") for name in settings)
    return f"{key}.{message}." if starts_with_setting else f"{key}: {message}."


def allowed_target(name: str, key: str) -> Any:
    """The class or function called `name`; only this package's own and PyTorch's optimizers may be named.

    A config can come with a checkpoint from a stranger, and calling what it names is running its code.
    """
    refused = UserError(f"{key}._target_={name} is not allowed: it must name a class of diffusion or torch.optim.")
    if not name.startswith(("diffusion.", "torch.optim.")):
        raise refused
    try:
        target = get_object(name)
    except Exception as error:  # Hydra raises several kinds for a name that leads nowhere
        raise UserError(f"{key}._target_={name} does not exist.") from error
    if name.startswith("torch.optim."):
        if not (inspect.isclass(target) and issubclass(target, torch.optim.Optimizer)):
            raise refused
    elif not callable(target) or not str(getattr(target, "__module__", "")).startswith("diffusion."):
        raise refused
    return target


def check_arguments(target: Any, settings: Config, key: str, live: Collection[str], complete: bool = True) -> None:
    """Compare settings with the signature of what they are passed to.

    Args:
        target: a class or function.
        settings: arguments from the config.
        key: name of the node, for messages.
        live: names of further arguments, which no setting may name.
        complete: also see that no argument is missing.
    """
    constructor = target.__init__ if inspect.isclass(target) else target
    parameters = {
        name: parameter
        for name, parameter in inspect.signature(constructor).parameters.items()
        if name != "self" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
    known = [name for name in parameters if name not in live]
    hints = get_type_hints(constructor)
    for name, value in settings.items():
        if name not in known:
            raise UserError(unknown(f"{key}.{name}", [f"{key}.{other}" for other in known]))
        if name in hints and not fits(value, hints[name]):
            raise UserError(f"{key}.{name}={value!r} has the wrong type: it must be {describe(hints[name])}.")
    required = [name for name in known if parameters[name].default is inspect.Parameter.empty]
    missing = [name for name in required if name not in settings]
    if complete and missing:
        raise UserError(f"{key}.{missing[0]} must be given: add {key}.{missing[0]}=… to the command.")


def check_types(config: Config) -> None:
    """Names and types of all settings of a config, before anything that takes time is built from it."""
    for key, node in config.items():
        if isinstance(node, dict) and "_target_" in node:
            check_arguments(allowed_target(node["_target_"], key), without_target(node), key, (), complete=False)


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain config value can be passed where `hint` is annotated."""
    if hint is Any:
        return True
    if get_origin(hint) in (Union, types.UnionType):
        return any(fits(value, option) for option in get_args(hint))
    if get_origin(hint) in (list, tuple) or hint in (list, tuple):
        inner = [option for option in get_args(hint) if option is not Ellipsis]
        return isinstance(value, list) and (not inner or all(fits(item, inner[0]) for item in value))
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(hint, type) and isinstance(value, hint)


def describe(hint: Any) -> str:
    """A type in words."""
    words = {int: "a whole number", float: "a number", bool: "true or false", str: "a text", type(None): "null"}
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(describe(option) for option in get_args(hint) if option is not torch.Tensor)
    if get_origin(hint) in (list, tuple):
        return f"a list, each {describe(get_args(hint)[0])}"
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def unknown(name: str, known: Sequence[str]) -> str:
    """The sentence for a setting that does not exist, with the nearest ones that do."""
    leaves = [other for other in known if difflib.get_close_matches(name, [other.rpartition(".")[2]], cutoff=0.8)]
    close = (leaves + [match for match in difflib.get_close_matches(name, known) if match not in leaves])[:4]
    if close:
        return f"Unknown setting '{name}': did you mean {' or '.join(repr(match) for match in close)}?"
    if not known:
        section = name.rpartition(".")[0]
        return f"Unknown setting '{name}': the chosen option of {section} has no settings; choose another {section}=…."
    return f"Unknown setting '{name}': choose from {', '.join(sorted(known))}."


def check_top_level(cfg: DictConfig, known: Mapping[str, type | tuple[type, ...]], prefix: str = "") -> None:
    """Check the keys of a script's config, and the types of its own settings.

    Args:
        cfg: the composed config.
        known: every top-level key → the type or types of its value.
        prefix: of the keys, in messages.
    """
    for name in cfg:
        if name not in known:
            raise UserError(unknown(f"{prefix}{name}", [f"{prefix}{other}" for other in known]))
    missing = sorted(str(name) for name in OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{prefix}{missing[0]} must be given: add {prefix}{missing[0]}=… to the command.")
    for name, expected in known.items():
        value = cfg.get(name)
        expected = expected if isinstance(expected, tuple) else (expected,)
        if (isinstance(value, bool) and bool not in expected) or not isinstance(value, expected):
            words = " or ".join("a group of settings" if e is DictConfig else describe(e) for e in expected)
            raise UserError(f"{prefix}{name}={value!r} has the wrong type: it must be {words}.")


# ----------------------------------------------------------------------------------------- the whole model


def build_network(config: Config, image: Config, seed: int) -> nn.Module:
    """The untrained network of a run, on the CPU; its weights depend on the seed alone."""
    from diffusion.randomness import NETWORK, stream

    guidance = build(config["guidance"], "guidance")
    if guidance.conditional and not image["class_names"]:
        raise UserError("guidance=classifier_free needs labels, and the data has none: use guidance=none.")
    classes = len(image["class_names"]) if guidance.conditional else 0
    size = image["size"] + 2 * image["padding"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(stream(seed, NETWORK).initial_seed())
        return build(config["model"], "model", channels=image["channels"], image_size=size, num_classes=classes)


def build_denoiser(config: Config, network: nn.Module) -> Any:
    """Network, schedule and objective of a run as one denoiser."""
    from diffusion.denoiser import Denoiser

    schedule, objective = build(config["schedule"], "schedule"), build(config["objective"], "objective")
    try:
        return Denoiser(network, schedule, objective)
    except ValueError as error:
        raise UserError(f"{error}.") from error


def load_image_model(state: Config, device: Any, averaged: bool = True) -> Any:
    """The trained model of a checkpoint, with its own schedule and objective.

    Args:
        state: from `checkpoint.load`.
        device: a `Device`.
        averaged: take the averaged (EMA) weights.
    """
    from diffusion.image_model import ImageModel

    network = build_network(state["config"], state["image"], seed=0)
    weights = state["ema"]["network"] if averaged else state["network"]
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise UserError("The checkpoint's weights do not belong to the model that its config describes.") from error
    network = device.place(network).eval().requires_grad_(False)
    denoiser = build_denoiser(state["config"], network)
    return ImageModel(denoiser, build(state["config"]["guidance"], "guidance"), device, state["image"])


def open_model(cfg: DictConfig, device: Any = None) -> tuple[Any, Config]:
    """The model and the checkpoint that a script's `checkpoint`, `averaged`, `device` and `guidance.scale` ask for."""
    state = checkpoint.load(checkpoint.find(cfg.checkpoint))
    if state["step"] < state["total_steps"]:
        log.warning("This run has only got to step %d of %d so far.", state["step"], state["total_steps"])
    device = build(cfg.device, "device") if device is None else device
    model = load_image_model(state, device, cfg.averaged)
    check_top_level(cfg.guidance, {"scale": (int, float, type(None))}, "guidance.")
    set_guidance_scale(model, cfg.guidance.scale)
    return model, state


def draw(
    model: Any, sampler: Any, n: int, labels: Any, seed: int, batch_size: int, observe: Any = None
) -> torch.Tensor:
    """`ImageModel.draw` with a progress bar, and with a sentence for settings out of range."""
    if seed < 0:
        raise UserError(f"seed={seed} must be 0 or more.")
    try:
        return model.draw(sampler, n, labels, seed, batch_size, observe, progress=True)
    except ValueError as error:
        raise UserError(f"{error}.") from error


def class_numbers(classes: Any, model: Any) -> list[int] | None:
    """Classes by name or number, one or a list, as numbers; None means all."""
    if classes is None:
        return None
    if not model.guidance.conditional:
        raise UserError(f"classes={classes}: this model was trained with guidance=none and takes no labels.")
    names, numbers = model.class_names, []
    folded = [name.lower() for name in names]
    for item in [classes] if isinstance(classes, str | int) else list(classes):
        if isinstance(item, int) and not isinstance(item, bool):
            if not 0 <= item < len(names):
                raise UserError(f"classes={item}: the labels go from 0 to {len(names) - 1} ({', '.join(names)}).")
            numbers.append(item)
        elif str(item).lower() in folded:
            numbers.append(folded.index(str(item).lower()))
        else:
            raise UserError(f"classes={item}: there is no such class; choose from {', '.join(names)}.")
    if not numbers:
        raise UserError("classes=[] names no class: leave it out for an even mix.")
    return numbers


def choose_sampler(cfg: DictConfig, config: Config) -> Any:
    """The sampler of the command line, or the run's own with the settings that were given.

    Args:
        cfg: the script's node `sampler`; without `_target_` it only changes settings of the run's own.
        config: of the checkpoint.
    """
    settings = {k: v for k, v in (OmegaConf.to_container(cfg, resolve=True) or {}).items() if v is not None}  # type: ignore[union-attr]
    own = {} if "_target_" in settings else config["sampler"]
    return build({**own, **settings}, "sampler")


def set_guidance_scale(model: Any, scale: float | None) -> None:
    """Replace the guidance scale of a trained model; `UserError` where it cannot be guided."""
    if scale is None:
        return
    if not model.guidance.conditional:
        if scale != 1:
            raise UserError(f"guidance.scale={scale:g}: this model was trained with guidance=none and takes no labels.")
        return
    if scale < 0:
        raise UserError(f"guidance.scale={scale:g} must be 0 (unconditional), 1 (conditional) or more (guided).")
    if scale != 1 and model.guidance.dropout == 0:
        raise UserError(
            f"guidance.scale={scale:g}: this model was trained with guidance.dropout=0 and never learned to go "
            "without a label; use guidance.scale=1."
        )
    model.guidance.scale = scale


# ---------------------------------------------------------------------------------------------- a run


def plain(cfg: DictConfig) -> Config:
    """The resolved config as it goes into a checkpoint: plain containers, nothing of this machine or this start."""
    config = OmegaConf.to_container(cfg, resolve=True)
    assert isinstance(config, dict)
    return {str(k): v for k, v in config.items() if k not in ("output_dir", "resume")}


def resumed_config(saved: Config, cfg: DictConfig, overrides: Sequence[str]) -> Config:
    """The config of a run that goes on: its own, with what the command line may change.

    Args:
        saved: from the checkpoint.
        cfg: composed from the command line.
        overrides: of the command line.

    Raises:
        UserError: an override would change something that the run was trained with.
    """
    config, new = OmegaConf.create(saved), plain(cfg)
    for override in overrides:
        key = override.split("=", 1)[0].lstrip("+~").split("@")[-1]
        if key == "experiment":  # the original command typed again: fine, if it is the same experiment
            changed = [name for name in TRAINED_WITH if new.get(name) != saved.get(name)]
            if changed:
                raise UserError(f"resume: '{override}' has another {changed[0]} than this run: leave it out.")
            continue
        allowed = any(key == name or key.startswith(f"{name}.") for name in RESUMABLE)
        value = OmegaConf.select(OmegaConf.create(new), key)
        if allowed and key != "resume":
            if key == "training.steps":
                config.training.epochs = None
            if key == "training.epochs":
                config.training.steps = None
            if key == "training.images":
                config.training.steps = config.training.epochs = None
            OmegaConf.update(config, key, value, merge=False)
        elif not allowed and OmegaConf.select(config, key) != value:
            old = OmegaConf.select(config, key)
            shown = old.get("_target_", old) if isinstance(old, DictConfig) else old
            raise UserError(
                f"resume: '{override}' would change what this run is trained with ({key} is {shown}); only the length, "
                "the logging and the device may change. Start a new run for it."
            )
    result = OmegaConf.to_container(config)
    assert isinstance(result, dict)
    return {str(k): v for k, v in result.items()}


def build_trainer(config: Config, folder: Path, resume: Config | None = None) -> Any:
    """The trainer of a run with everything it needs; the caller closes `trainer.tracker`.

    Args:
        config: plain and resolved.
        folder: of the run.
        resume: the checkpoint to go on from.
    """
    from diffusion.image_model import ImageModel
    from diffusion.tracking import Tracker

    check_types(config)
    device, data = build(config["device"], "device"), build(config["data"], "data")
    log.info("Data: %s, %d + %d images. Device: %s.", data.name, len(data.train), len(data.test), device.describe())
    image = data.describe()
    if resume is not None and resume["image"] != image:
        raise UserError(f"resume: the images of data={data.name} are no longer what this run was started with.")
    network = device.place(build_network(config, image, config["seed"]))
    size = sum(parameter.numel() for parameter in network.parameters())
    log.info("Network: %s, %.2f million parameters.", type(network).__name__, size / 1e6)
    guidance, ema = build(config["guidance"], "guidance"), build(config["ema"], "ema", network=network)
    build(config["sampler"], "sampler")  # sample.py's default: refused now rather than after training
    tracker = Tracker(folder, first_step=resume["step"] + 1 if resume else 0)
    monitor = build(
        {"_target_": "diffusion.monitor.Monitor", **config["score"]},
        "score",
        model=ImageModel(build_denoiser(config, ema.network), guidance, device, image),
        sampler=build(config["preview"], "preview"),
        features=None,
        tracker=tracker,
        folder=folder,
    )
    trainer = build(
        config["training"],
        "training",
        denoiser=build_denoiser(config, network),
        ema=ema,
        data=data,
        guidance=guidance,
        timesteps=build(config["timesteps"], "timesteps"),
        optimizer=lambda parameters: build(config["optimizer"], "optimizer", params=parameters),
        device=device,
        tracker=tracker,
        monitor=monitor,
        folder=folder,
        seed=config["seed"],
        header={"config": config, "image": image},
    )
    if resume is not None:
        trainer.load_state_dict(resume)
    # Last, because for new data it trains a classifier first.
    if config["score"]["n"] and not data.class_names:
        log.info("Scores are left out: they need a classifier, and data=%s has no labels.", data.name)
    elif config["score"]["n"]:
        monitor.features = build(config["features"], "features", data=data, device=device.torch_device)
    return trainer
