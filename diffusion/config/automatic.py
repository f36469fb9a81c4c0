"""What the settings that a run leaves open (`auto`) become: by the rule of diffusion/training/rule.py, from the images
that it will see. With a length in time these follow from the speed, which is measured here and now for several widths.
"""

import copy
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from diffusion.config.build import Recipe, build
from diffusion.config.left_open import left_open
from diffusion.config.settings import Config, in_context
from diffusion.system import ranks
from diffusion.system.device import Device
from diffusion.system.errors import UserError
from diffusion.training import rule
from diffusion.training.parts import Parts
from diffusion.training.plan import Plan
from diffusion.training.speed import LEAST, SHARE, Measured

log = logging.getLogger("diffusion")
ALWAYS = {0: 1.0, 1: 0.0}  # dropout of labels → the one scale that a network can be guided by
UNITS = (("hour", 3600), ("minute", 60), ("second", 1))


@dataclass
class Chosen:
    """What came of the choice, besides the numbers in the config.

    Args:
        tuned: settings of guidance that are chosen anew after training.
        spent: seconds of the budget that it took.
        threads: of the CPU, where they were chosen on the way.
    """

    tuned: list[str] = field(default_factory=list)
    spent: float = 0.0
    threads: int | None = None


def choose(
    config: Config, data: Any, image: Config, device: Device, make: Callable[[Recipe, Device, Plan], Parts]
) -> Chosen:
    """Let what the config of a new run leaves open be numbers, in the config itself, and say in the log what and why.

    Args:
        config: of the run; its types are checked.
        data, image: what it learns from.
        device: where.
        make: the parts of a training with new weights.
    """
    names = left_open(config)
    if not names:
        return Chosen()
    fill(config, names, rule.FIRST, whole(rule.BATCH, config), 1)  # so that it can be built
    plan, counts = build(config["training"], "training"), parameters(config, image, "model.width" in names)
    found, batch = None, plan.batch_size
    if plan.seconds is None:
        images = length(plan, config, len(data.train))
        width, why = rule.width_for(counts, images), f"For {rounded(images)} images"
    elif plan.seconds * SHARE < LEAST:
        speeds = rule.Speeds({rule.FIRST: rule.USUAL})
        width = rule.width_in_time(counts, speeds, plan.seconds)
        images = plan.seconds * speeds(width)
        why = f"In {in_words(plan.seconds)}, too short a time to measure anything, for about {rounded(images)} images"
    else:
        found = measured(config, names, plan, image, device, make)
        if "training.batch_size" in names and device.torch_device.type != "cpu":
            found.choose_batch(counts)
        width, batch = found.choose_width(counts), found.batch
        images, rate = found.images(width), rule.Speeds(found.speeds)(width)
        network = f"a network of width {width}" if "model.width" in names else "this network"
        why = f"At {rounded(rate)} images/s {network} sees {rounded(images)} images in {in_words(plan.seconds)}"
    fill(config, names, width, batch, images)
    tell(config, names, why, images / len(data.train), found)
    guided = config["guidance"].get("dropout") not in ALWAYS
    tuned = [name for name in names if name.startswith("guidance.") and guided]
    return Chosen(tuned) if found is None else Chosen(tuned, found.spent, found.threads)


def length(plan: Plan, config: Config, size: int) -> float:
    """Images that a run without a budget sees of so many; `UserError` where it is none."""
    try:
        return float(plan.total_steps(size) * plan.batch_size)
    except (ValueError, OverflowError) as error:
        raise UserError(in_context("training", config["training"], error)) from error


def whole(batch: int, config: Config) -> int:
    """The size of a batch, or of the next larger one that can be shared out."""
    parts = max(1, config["training"]["accumulate"]) * ranks.size()
    return -(-batch // parts) * parts


def measured(
    config: Config,
    names: Sequence[str],
    plan: Plan,
    image: Config,
    device: Device,
    make: Callable[[Recipe, Device, Plan], Parts],
) -> Measured:
    """What measures the speed; arguments as of `choose`."""
    place = copy.copy(device)
    place.compile = False  # which takes longer than measuring may

    def trial(width: int, batch: int) -> tuple[Parts, Plan]:
        changed = copy.deepcopy(config)
        fill(changed, [name for name in names if name in ("model.width", "training.batch_size")], width, batch, 1)
        training = build(changed["training"], "training")
        return make(Recipe(changed, image), place, training), training

    assert plan.seconds is not None
    return Measured(trial, config["seed"], plan.seconds, plan.batch_size)


def fill(config: Config, names: Sequence[str], width: int, batch: int, images: float) -> None:
    """Give settings that are left open their numbers."""
    row, dropout = rule.numbers(images), config["guidance"].get("dropout")
    if "guidance.scale" in names and config["guidance"].get("plus_plus"):
        raise UserError(
            "guidance.scale=auto: the rule knows no scale for guidance.plus_plus=true (CFG++): give guidance.scale a "
            "number between 0 and 1."
        )
    values = {
        "model.width": width,
        "training.batch_size": batch,
        "optimizer.lr": row.lr,
        "ema.width": rule.EMA,
        "guidance.scale": ALWAYS.get(dropout, row.scale),
        "guidance.interval": list(rule.INTERVAL),
    }
    for name in names:
        group, _, inner = name.partition(".")
        config[group] = {**config[group], inner: values[name]}


def parameters(config: Config, image: Config, free: bool) -> dict[int, int]:
    """Width → parameters of the network, of all widths that it can have, or where it is not free of the one it has.

    Raises:
        UserError: it can have none; as the network itself says it.
    """
    found, recipe = dict[int, int](), Recipe(config, image)
    refusal: UserError | None = None
    for width in rule.WIDTHS if free else (config["model"].get("width"),):
        if free:
            recipe.config = {**config, "model": {**config["model"], "width": width}}
        try:
            skeleton = recipe.skeleton()
        except UserError as error:  # no multiple of what the network asks for
            refusal = refusal or error
            continue
        found[width if isinstance(width, int) else rule.FIRST] = sum(p.numel() for p in skeleton.parameters())
    if refusal is not None and not found:
        raise refusal
    return found


# ------------------------------------------------------------------------------------------------- in the log


def tell(config: Config, names: Sequence[str], why: str, passes: float, found: Measured | None) -> None:
    """Say what was chosen and why; `passes` are those through the training images."""
    values = [f"{name}={config[group][inner]}" for name in names for group, _, inner in [name.partition(".")]]
    log.info("%s: %s.", why, " ".join(values).replace(", ", ","))
    if found is not None:
        said = ", ".join(f"{rounded(rate)} images/s at width {width}" for width, rate in sorted(found.speeds.items()))
        log.info("Measured in %.1f s, which count: %s.", found.spent, said)
    if passes > 100:
        log.info("Each training image is seen about %s times: more images would teach more.", rounded(passes))


def rounded(value: float) -> str:
    """A number in three digits."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def in_words(seconds: float) -> str:
    """A time such as "4 minutes"."""
    unit, size = next((each for each in UNITS if seconds >= each[1]), UNITS[-1])
    return f"{seconds / size:.3g} {unit}{'' if seconds == size else 's'}"
