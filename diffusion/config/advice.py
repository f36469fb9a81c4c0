"""What to tell a person whose command cannot be done: one sentence with the way out, or none for a defect."""

import os
import re
from contextlib import suppress
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion.config import command
from diffusion.config import options as of_config
from diffusion.config.arguments import READ, WITH_VALUE
from diffusion.config.settings import FROM_CHECKPOINT, HOMES, unknown
from diffusion.system import ranks
from diffusion.system.errors import UserError

OF_YOURS = ("image_folder", "arrays", "huggingface")  # the options of data for a user's own images
VARIED = ("flip", "shift")  # which every option of data has


def as_sentence(error: BaseException) -> str | None:
    """What to tell the user, or None for a defect of the program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, HydraException | OmegaConfBaseException):
        return hydra_sentence(str(error))
    if isinstance(error, OSError):
        where = f" ({error.filename})" if error.filename else ""
        return f"{error.strerror or error}{where}: check the path, the permissions and the free space."
    if str(error).startswith("Config group override must be a string"):  # Hydra's, without a name
        groups = [
            a for a in command.words()[1:] if re.split("[=@]", a)[0] in (*HOMES, "experiment", "launch", "search")
        ]
        given = next(
            (a for a in groups if type(OverridesParser.create().parse_override(a).value()) not in (str, list)), ""
        )
        return f"{given.replace('sampler@', '')}: choose an option by its name, or leave this out."
    if isinstance(error, ValueError) and "integer string conversion" in str(error):  # Python's, without a name
        given = next((argument for argument in command.words()[1:] if re.search(r"\d{4301}", argument)), "A setting")
        return f"{given[:60]}… is too large a number."
    if ranks.lost(error):
        return "Another process of this run ended without a word (killed, or out of memory?): this one ends, too."
    if type(error).__name__ == "OutOfMemoryError":
        return (
            "The device ran out of memory: use smaller batches, training.accumulate=2 (with the same gradient) or, "
            "when sampling, a smaller batch_size or score.batch_size."
        )
    return None


def hydra_sentence(message: str) -> str:
    """Hydra's report of a setting that does not compose, as one sentence."""
    flat = " ".join(message.split())
    resolved = re.search(r"UserError raised while resolving interpolation: (.*?\.)(?: full_key:|$)", flat)
    if resolved:
        return resolved[1]
    override = re.search(r"Could not (?:override|append to|delete)[^']*'([^']*)'", message)
    if override:
        name = override.group(1).split("=")[0].replace("sampler@preview", "preview")
        if "Could not append" in message:
            return f"The setting '{name}' exists already: change it without the plus sign, {name}=…."
        return no_setting(name)
    plugin = re.search(r"(?:Could not find|Could not override) '(?:hydra/)?(?:launcher|sweeper)/([a-z_]+)", message)
    if plugin:
        extra = {"optuna": "search", "tpe": "search"}.get(plugin[1], plugin[1].partition("_")[0])
        return f'{plugin[1]} is not installed: pip install -e ".[{extra}]".'
    option = re.search(r"Could not find '([^']*)/([^'/]*)'\s*Available options in '[^']*':\n((?:\t.*\n?)*)", message)
    if option:
        group, wrong, rest = option.groups()
        if f"sampler@preview={wrong}" in command.words():
            group = "preview"
        options = ", ".join(rest.split())
        return f"{group}={wrong}: there is no such option; choose one of {options}."
    if "override_grammar" in message:
        unread = _unread()
        if unread:
            return unread
    several = re.search(r"Ambiguous value for argument '([^=]*)=(.*)'", message)
    if several:
        name, values = several.groups()
        if name in READ and name != "samples":
            return f"{name}={values}: there is no such file or folder; add -m for a sweep over several."
        return f"{name}={values}: add -m for a sweep over these, or write {name}=[{values}] for a list of them."
    return flat if flat.endswith((".", "?")) else f"{flat}."


def _unread() -> str | None:
    """The sentence for the first argument that Hydra's grammar refuses."""
    parser = OverridesParser.create()
    for before, argument in zip(command.words(), command.words()[1:], strict=False):
        if argument.startswith("-") or before in WITH_VALUE:
            continue
        try:
            parser.parse_override(argument)
        except HydraException:
            shown, path = " ".join(argument[:200].split()), f"{before} {argument}"
            if "=" in before and os.path.exists(path.partition("=")[2]):  # a shell parts words at spaces
                return f"'{shown}' cannot be read: put what belongs together into quotes, '{path}'."
            return f"'{shown}' cannot be read: write name=value, and put special characters into quotes."
    return None


def no_setting(name: str) -> str:
    """The sentence for a setting that the config has not, with the option of its group that has it, if there is one."""
    section, _, key = name.rpartition(".")
    keys = settings()
    own = [other for other in keys if section and other.startswith(f"{section}.")]
    if not section and name in FROM_CHECKPOINT and name not in keys:
        return unknown(name, [])
    owner = next((option for option in OF_YOURS if section == "data" and key in settings_of("data", option)), None)
    if owner is not None and key not in VARIED:
        if Path(command.words()[0]).name == "sample.py":
            return f"{name}: sample.py takes the images of a task from the model's data, or from task.images=…."
        if any(f"data={other}" in command.words() for other in OF_YOURS):
            return f"Unknown setting '{name}' for these data, though data={owner} has it: leave it out."
        return f"Unknown setting '{name}' for these data: add data={owner}, for images of your own."
    others = [] if name in keys else [option for option in options(section) if key in settings_of(section, option)]
    if others and own and section in HOMES:
        hint = " or ".join(f"{section}={option}" for option in others[:4])
        return f"Unknown setting '{name}' for the chosen {section}: add {hint}, which has it, or leave it out."
    if section in FROM_CHECKPOINT and not own:
        return f"Unknown setting '{name}': it comes from the checkpoint, so that a model is sampled as it was trained."
    return unknown(name, own if section in keys else keys)


def folders() -> list[Path]:
    """Where options lie: this program's conf/ and the user's own --config-dir."""
    found, words = [Path(command.words()[0]).resolve().parent / "conf"], command.words()[1:]
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        if name in ("--config-dir", "-cd"):
            found.append(Path(value if equals else after).resolve())
    return found


def options(group: str) -> list[str]:
    """The options of a config group."""
    group = "sampler" if group == "preview" else group
    return sorted({path.stem for folder in folders() if group for path in (folder / group).glob("*.yaml")})


def settings_of(group: str, option: str) -> list[str]:
    """The settings of an option of a config group."""
    group = "sampler" if group == "preview" else group
    for folder in folders():
        with suppress(OSError, OmegaConfBaseException, ValueError):
            node: Any = OmegaConf.load(folder / group / f"{option}.yaml")
            if OmegaConf.is_dict(node) and OmegaConf.is_dict(node.get(group)):  # of the whole config: @package _global_
                node = node[group]
            return [str(key) for key in node if key != "_target_"] if OmegaConf.is_dict(node) else []
    return []


def settings() -> list[str]:
    """All settings of this script's config, for hints; composed anew with the user's choice of options alone."""
    script, *given = command.words()
    name = next((a.partition("=")[2] for a in given if a.startswith("--config-name=")), None)
    if name is None and "--config-name" in given[:-1]:
        name = given[given.index("--config-name") + 1]
    places = folders()
    names = {a: re.split("[=@]", a.lstrip("+"))[0] for a in given if "=" in a}
    chosen = [a for a, group in names.items() if any((place / group).is_dir() for place in places)]
    cfg: Any = {}
    with suppress(Exception):  # only hints depend on it
        for overrides in ([], chosen):
            composed = of_config.composed(name or Path(script).stem, overrides, places)
            cfg = OmegaConf.to_container(composed, resolve=False)
    keys: list[str] = []

    def walk(node: Any, prefix: str) -> None:
        for key, value in node.items():
            if key != "_target_" and not (not prefix and key == "hydra"):
                keys.append(f"{prefix}{key}")
                if isinstance(value, dict):
                    walk(value, f"{prefix}{key}.")

    walk(cfg, "")
    return keys
