"""What an experiment leaves open for one option, where the command chose another: what that option's own file says."""

from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf, open_dict

from diffusion.config import command, options
from diffusion.config.arguments import FOLDER_OF_OPTIONS
from diffusion.config.left_open import AUTO, KNOWN, known, value_of
from diffusion.system.errors import UserError


def fall_back(cfg: DictConfig, overrides: Sequence[str]) -> list[str]:
    """Give a setting that an experiment leaves open, where the command chose an option that the rule does not know, the
    option's own value; the names of those."""
    found = []
    given = {override.split("=", 1)[0].lstrip("+~"): override.partition("=")[2] for override in overrides}
    for name in KNOWN:
        group, _, inner = name.partition(".")
        if value_of(cfg, name) != AUTO or known(cfg, name) or name in given or group not in given:
            continue
        own = own_value(group, given[group], inner)
        with open_dict(cfg):
            if own is None:
                del cfg[group][inner]
            else:
                cfg[group][inner] = own
        found.append(name)
    return found


def own_value(group: str, option: str, name: str) -> Any:
    """What the file of an option says of a setting; None where it says nothing.

    Raises:
        UserError: there is no such file where options are looked for.
    """
    words = list(command.words())
    own = [word.partition("=")[2] for word in words if word.partition("=")[0] in FOLDER_OF_OPTIONS and "=" in word]
    own += [after for word, after in pairwise(words) if word in FOLDER_OF_OPTIONS]
    for place in (*map(Path, own), options.home()):
        file = place / group / f"{option}.yaml"
        if file.is_file():
            return OmegaConf.select(OmegaConf.load(file), name)
    raise UserError(f"{group}.{name}=auto of the experiment is not for {group}={option}: give {group}.{name} a number.")
