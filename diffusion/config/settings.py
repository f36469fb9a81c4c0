"""The checks that turn a wrong setting into one sentence that names it."""

import difflib
import inspect
import math
import types
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin

from hydra.utils import get_object
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict

from diffusion.config import left_open, trust
from diffusion.system.errors import UserError

Config = dict[str, Any]
LARGEST = 10**9  # of the scripts' own numbers: images, seeds, sizes of batches
FROM_CHECKPOINT = ("model", "schedule", "objective", "loss", "timesteps", "ema")
# Where the classes of each group of the config live; nothing else may be named by a config.
HOMES = {
    "data": "diffusion.data.datasets",
    "model": "diffusion.networks",
    "schedule": "diffusion.schedule",
    "objective": "diffusion.objective",
    "loss": "diffusion.loss",
    "timesteps": "diffusion.timesteps",
    "guidance": "diffusion.guidance",
    "ema": "diffusion.ema",
    "sampler": "diffusion.sampler",
    "preview": "diffusion.sampler",
    "optimizer": "torch.optim",
    "training": "diffusion.training.plan",
    "score": "diffusion.training.monitor",
    "task": "diffusion.tasks",
    "device": "diffusion.system.device",
    "features": "diffusion.evaluation.features",
    "scorer": "diffusion.evaluation.classifier",
}
# Settings that came later, by group, with the value that leaves all as it was before.
LATER: dict[str, Config] = {
    "training": {"freeze": None, "keep": 1, "keep_by": "score/fid", "patience": 0},
    "data": {"flip": False, "shift": 0, "fit": "crop"},
    "model": {"sinusoid_ratio": 4},
    "loss": {"margin": 0.0},
}


def without_later(config: Config) -> Config:
    """A config without the settings of `LATER` that change nothing, as it was before there were any."""

    def before(group: str, node: Any) -> Any:
        later = LATER.get(group, {})
        return {k: v for k, v in node.items() if k not in later or v != later[k]} if isinstance(node, dict) else node

    return {group: before(group, node) for group, node in config.items() if group != "track"}


def without_target(node: Config) -> Config:
    """The arguments of a node."""
    return {name: value for name, value in node.items() if name != "_target_"}


def in_context(key: str, settings: Config, error: Exception) -> str:
    """A constructor's objection as a sentence that starts with the full name of the setting."""
    message = " ".join(str(error).split()).rstrip(".")
    starts_with_setting = any(message.startswith(f"{name}=") for name in settings)
    return f"{key}.{message}." if starts_with_setting else f"{key}: {message}."


def allowed_target(name: str, key: str) -> Any:
    """The class or function called `name`, which must belong to the group `key`.

    A config can come with a checkpoint from a stranger, and calling what it names is running its code: a network can
    only be one of diffusion.networks, an optimizer only one of torch.optim or of ours, and so on; or one of a module
    that the person at the command line trusts.
    """
    home = HOMES.get(key)
    if home is None:
        raise UserError(f"{key} is no group of settings that could have a _target_.")
    if trust.covering(name) is not None:
        from diffusion.config import own_parts  # here, because it needs torch

        return own_parts.own_part(name, key)
    if trust.foreign(name):
        asked = ",".join([*trust.modules(), name.rpartition(".")[0]])
        raise UserError(
            f"{key}._target_={name} is code of yours or of whoever wrote it: if you trust it, add "
            f"trust={f'[{asked}]' if ',' in asked else asked}."
        )
    if key == "optimizer" and name.startswith("diffusion.optimizer."):
        home = "diffusion.optimizer"
    refused = UserError(f"{key}._target_={name} is not allowed: it must be a public name of {home}.")
    module, _, inner = name.rpartition(".")
    if (module != home and not module.startswith(f"{home}.")) or inner.startswith("_"):
        raise refused
    try:
        target = get_object(name)
    except Exception as error:  # Hydra raises several kinds for a name that leads nowhere
        raise UserError(f"{key}._target_={name} does not exist.") from error
    if key == "optimizer":
        import torch  # here, so that a misspelt setting is told without waiting for it

        if not (inspect.isclass(target) and issubclass(target, torch.optim.Optimizer)):
            raise refused
    elif not callable(target) or not f"{getattr(target, '__module__', None)}.".startswith(f"{home}."):
        raise refused
    else:
        from diffusion.config import own_parts

        own_parts.check_ours(target, key, name)
    return target


def arguments_of(target: Any) -> dict[str, inspect.Parameter]:
    """The arguments of a class or function that have names, with their defaults and types."""
    found = inspect.signature(target, eval_str=True).parameters.values()
    return {each.name: each for each in found if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)}


def check_arguments(target: Any, settings: Config, key: str, live: Collection[str], complete: bool = True) -> None:
    """Compare settings with the signature of what they are passed to.

    Args:
        target: a class or function.
        settings: arguments from the config.
        key: name of the node, for messages.
        live: names of further arguments, which no setting may name.
        complete: also see that no argument is missing.
    """
    known = {name: argument for name, argument in arguments_of(target).items() if name not in live}
    for name, value in settings.items():
        if name not in known:
            raise UserError(unknown(f"{key}.{name}", [f"{key}.{other}" for other in known]))
        if isinstance(value, int) and abs(value) >= 2**63:
            raise UserError(
                f"{key}.{name}={str(value)[:30]}… is too large a number: it must be below 2 to the power 63."
            )
        hint = known[name].annotation
        if not fits(value, hint):
            raise UserError(f"{key}.{name}={value!r} has the wrong type: it must be {describe(hint)}.")
    missing = [name for name in known if known[name].default is inspect.Parameter.empty and name not in settings]
    if complete and missing:
        raise UserError(f"{key}.{missing[0]} must be given: add {key}.{missing[0]}=… to the command.")


def check_types(config: Config) -> None:
    """Names and types of all settings of a config, before anything that takes time is built from it."""
    for key, node in config.items():
        if isinstance(node, dict) and "_target_" in node:
            target = allowed_target(node["_target_"], key)
            settings = without_target(left_open.without(key, node, list(arguments_of(target))))
            if settings.get("sigma_data", 0) is None:  # to be measured on the data
                settings.pop("sigma_data")
            live = [name for name, argument in arguments_of(target).items() if not plain(argument.annotation)]
            check_arguments(target, settings, key, live, complete=False)


def plain(hint: Any) -> bool:
    """Whether a config can hold something that is annotated so: numbers, texts, and lists of them."""
    if get_origin(hint) is Literal:
        return True
    if get_args(hint):
        return any(plain(option) for option in get_args(hint))
    return hint in (Any, inspect.Parameter.empty, None, type(None), bool, int, float, str, list, tuple, dict)


def leave_out_foreign(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Remove settings that an experiment made for another option of a group than the command line chose.

    Args:
        cfg: the composed config, changed in place.
        overrides: of the command line.

    Returns:
        The names of what was removed; a setting that the command line gives itself is never among them.
    """
    given = {override.split("=", 1)[0].lstrip("+~").split("@")[-1] for override in overrides}
    removed = []
    for group in given.intersection(HOMES):
        node = cfg.get(group)
        if not isinstance(node, DictConfig) or "_target_" not in node:
            continue
        known = arguments_of(allowed_target(str(node["_target_"]), group))
        for name in [str(name) for name in node if name != "_target_" and name not in known]:
            if f"{group}.{name}" not in given:
                removed.append(f"{group}.{name}")
                with open_dict(node):
                    del node[name]
    return removed


def choose_length(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """Let a length of the run on the command line replace that of an experiment or of the run that is resumed."""
    given = {override.split("=", 1)[0].lstrip("+~") for override in overrides}
    names = ("images", "epochs", "steps", "budget")
    if given.intersection(f"training.{name}" for name in names):
        for name in names[1:]:
            if f"training.{name}" not in given:
                cfg.training[name] = None


def fits(value: Any, hint: Any) -> bool:
    """Whether a plain config value can be passed where `hint` is annotated."""
    if hint in (Any, inspect.Parameter.empty):
        return True
    if get_origin(hint) in (Union, types.UnionType):
        return any(fits(value, option) for option in get_args(hint))
    if get_origin(hint) is Literal:
        return value in get_args(hint)
    if get_origin(hint) in (list, tuple, Sequence) or hint in (list, tuple):
        inner = [option for option in get_args(hint) if option is not Ellipsis]
        fixed = get_origin(hint) is tuple and Ellipsis not in get_args(hint)
        if not isinstance(value, list) or (fixed and len(value) != len(inner)):
            return False
        return not inner or all(fits(item, inner[0]) for item in value)
    if hint in (None, type(None)):
        return value is None
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    hint = get_origin(hint) or hint  # dict of dict[str, int]
    return isinstance(hint, type) and isinstance(value, hint)


def describe(hint: Any) -> str:
    """A type in words."""
    words = {
        int: "a whole number",
        float: "a finite number",
        bool: "true or false",
        str: "a text",
        type(None): "null",
        ListConfig: "a list",
    }
    if get_origin(hint) in (Union, types.UnionType):
        return " or ".join(describe(option) for option in get_args(hint) if getattr(option, "__name__", "") != "Tensor")
    if get_origin(hint) is tuple and Ellipsis not in get_args(hint):
        return f"a list of {len(get_args(hint))}, each {describe(get_args(hint)[0])}"
    if get_origin(hint) is Literal:
        return f"one of {', '.join(map(str, get_args(hint)))}"
    if get_origin(hint) in (list, tuple, Sequence):
        return f"a list, each {describe(get_args(hint)[0])}"
    return words.get(hint, getattr(hint, "__name__", str(hint)))


def unknown(name: str, known: Sequence[str]) -> str:
    """The sentence for a setting that does not exist, with the nearest ones that do."""
    known = [other for other in known if other != name]
    inside = [other for other in known if other.startswith(f"{name}.")]
    if inside:
        return f"'{name}' has no options here, only settings: {', '.join(inside)}."
    leaves = [other for other in known if difflib.get_close_matches(name, [other.rpartition(".")[2]], cutoff=0.8)]
    close = (leaves + [match for match in difflib.get_close_matches(name, known) if match not in leaves])[:4]
    if close:
        return f"Unknown setting '{name}': did you mean {' or '.join(repr(match) for match in close)}?"
    section = name.rpartition(".")[0]
    if not known and section:  # nothing to choose from
        return f"Unknown setting '{name}': the chosen option of {section} has no settings; choose another {section}=…."
    if name in FROM_CHECKPOINT:
        return f"Unknown setting '{name}': it comes from the checkpoint, so that a model is sampled as it was trained."
    return f"Unknown setting '{name}'" + (f": choose from {', '.join(sorted(known))}." if known else "; see --help.")


def check_top_level(cfg: DictConfig, known: Mapping[str, type | tuple[type, ...]], prefix: str = "") -> None:
    """Check the keys of a script's config, and the types of its own settings.

    Args:
        cfg: the composed config.
        known: every top-level key → the type or types of its value.
        prefix: of the keys, in messages.
    """
    for name in map(str, cfg):
        if name not in known:
            raise UserError(unknown(f"{prefix}{name}", [f"{prefix}{other}" for other in known]))
    missing = sorted(str(name) for name in OmegaConf.missing_keys(cfg))
    if missing:
        raise UserError(f"{prefix}{missing[0]} must be given: add {prefix}{missing[0]}=… to the command.")
    for name, expected in known.items():
        value = cfg.get(name)
        expected = expected if isinstance(expected, tuple) else (expected,)
        accepted = (*expected, int) if float in expected else expected
        if isinstance(value, int) and abs(value) > LARGEST:
            raise UserError(f"{prefix}{name}={str(value)[:30]} is too large a number: it must be at most {LARGEST:,}.")
        if (isinstance(value, bool) and bool not in expected) or not isinstance(value, accepted):
            words = " or ".join("a group of settings" if e is DictConfig else describe(e) for e in expected)
            raise UserError(f"{prefix}{name}={value!r} has the wrong type: it must be {words}.")
