"""Settings that are left open, by `auto`: which may be, and what they are in a run that is known."""

from collections.abc import Mapping, Sequence
from typing import Any

from omegaconf import DictConfig

from diffusion.system.errors import UserError

AUTO = "auto"
GUIDED = ("diffusion.guidance.Automatic", "diffusion.guidance.ClassifierFree")
# Setting → the classes whose setting the rule knows (diffusion/training/rule.py).
KNOWN = {
    "model.width": ("diffusion.networks.unet.UNet",),
    "training.batch_size": ("diffusion.training.plan.Plan",),
    "optimizer.lr": ("diffusion.optimizer.Muon",),
    "ema.width": ("diffusion.ema.PowerEMA",),
    "guidance.scale": GUIDED,
    "guidance.interval": GUIDED,
}


def left_open(config: Mapping[str, Any]) -> list[str]:
    """The settings of a run's config that are auto and that the rule knows."""
    return [name for name in KNOWN if value_of(config, name) == AUTO and known(config, name)]


def value_of(config: Mapping[str, Any], name: str) -> Any:
    """The value of a setting such as "model.width"; None where there is none."""
    group, _, inner = name.partition(".")
    node = config.get(group)
    return node.get(inner) if isinstance(node, Mapping) else None


def known(config: Mapping[str, Any], name: str) -> bool:
    """Whether the rule knows this setting of the option that a config has."""
    return value_of(config, f"{name.partition('.')[0]}._target_") in KNOWN.get(name, ())


def without(group: str, node: Mapping[str, Any], has: Sequence[str]) -> dict[str, Any]:
    """The settings of a node but those left open.

    Args:
        group: its name.
        node: with `_target_`.
        has: the names of all settings that this option has.

    Raises:
        UserError: one is left open that the rule does not know.
    """
    for name in (f"{group}.{inner}" for inner, value in node.items() if value == AUTO):
        if name in KNOWN and name.partition(".")[2] in has and not known({group: node}, name):
            knows, mine = (each.rpartition(".")[2] for each in (KNOWN[name][-1], str(node.get("_target_"))))
            raise UserError(
                f"{name}=auto: the rule that would choose it knows {knows} alone, and this is {mine}: give {name} a "
                "number."
            )
    return {k: v for k, v in node.items() if not (v == AUTO and known({group: node}, f"{group}.{k}"))}


def settle(cfg: DictConfig, saved: Mapping[str, Any]) -> None:
    """Let what a composed config leaves open be what it became in the run of a checkpoint, whose config is `saved`."""
    for name in KNOWN:
        group, _, inner = name.partition(".")
        node = saved.get(group)
        if value_of(cfg, name) == AUTO and isinstance(node, Mapping) and inner in node:
            cfg[group][inner] = node[inner]
