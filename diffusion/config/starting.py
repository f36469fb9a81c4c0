"""A new run that starts from the weights of another (`checkpoint=`): what it takes over, and what may be another."""

import logging
from collections.abc import Sequence

from omegaconf import DictConfig, OmegaConf
from torch import nn

from diffusion.config.build import Recipe, build, measured
from diffusion.config.guiding import AUTOMATIC, LABELLED, UNLABELLED
from diffusion.config.resuming import GUIDING, TAKEN_OVER, check_known, check_places, difference, filled, places, plain
from diffusion.config.settings import Config
from diffusion.data.folders import number_of, some
from diffusion.networks.transfer import BIAS, LABELS, carried
from diffusion.system.errors import UserError

log = logging.getLogger("diffusion")
LOST = {  # what a trained network must learn anew for another one
    "schedule": "which t means how much noise",
    "objective": "what its output means",
}
CHOICES = ("data", *LOST)  # what may be given instead of what the checkpoint brings, as guidance may


# --------------------------------------------------------------------------------------------- the config


def starting_config(start: Config, cfg: DictConfig, overrides: Sequence[str]) -> Config:
    """The config of a new run that starts from the weights of another, and takes over what the command leaves open.

    Args:
        start: the checkpoint.
        cfg: composed from the command line.
        overrides: of the command line.

    Raises:
        UserError: an override would change the network itself.
    """
    config, saved, given = plain(cfg), start["config"], settings_given(overrides)
    for override in overrides:
        if override.lstrip("+~").startswith(("model=", "model.")):
            raise UserError(
                f"'{override.lstrip('+')}' cannot be given with checkpoint={config['checkpoint']}, which brings "
                "its own model: leave one of them out."
            )
    taken = {name: saved[name] for name in TAKEN_OVER}
    for group in CHOICES:
        taken[group] = chosen(group, saved[group], config[group], given.get(group, set()))
    if "objective" not in given and "sigma_data" in start["image"]:
        # The network means what it meant, whatever it is shown.
        taken["objective"] = measured(saved["objective"], start["image"])
    if "" not in given.get("data", set()):
        check_places(taken["data"], [name for name in places(taken["data"]) if name not in given.get("data", set())])
    margin = saved.get("loss", {}).get("margin")
    if margin and "margin" in config["loss"] and "margin" not in given.get("loss", set()):
        taken["loss"] = {**config["loss"], "margin": margin}  # where the network has learned that black and white lie
    taken["guidance"] = guided(saved["guidance"], config["guidance"], given)
    kept = [name for name in TAKEN_OVER if name not in given and (name != "guidance" or same_kind(taken, saved))]
    log.info("%s brings its own %s.", config["checkpoint"], ", ".join(kept))
    lost = [group for group in LOST if filled(taken[group], group) != filled(saved[group], group)]
    if lost:
        text = "Another %s than in %s: the network must learn anew %s; what its layers know of images carries over."
        log.warning(text, " and ".join(lost), config["checkpoint"], " and ".join(LOST[group] for group in lost))
    if "experiment" in given:
        other = [name for name in TAKEN_OVER[:-1] if name not in given and config[name] != saved[name]]
        if other:
            text = "Of that experiment, not taken over: %s; what belongs to a model comes with %s."
            log.info(text, ", ".join(other), config["checkpoint"])
    return {**config, **taken}


def same_kind(taken: Config, saved: Config) -> bool:
    """Whether a run guides as the one that it starts from, with labels or without."""
    kinds = [node["guidance"]["_target_"].replace(AUTOMATIC, LABELLED) for node in (taken, saved)]
    return kinds[0] == kinds[1]


def settings_given(overrides: Sequence[str]) -> dict[str, set[str]]:
    """The groups that a command line names → their settings in it; "" where it chooses an option of the group."""
    found: dict[str, set[str]] = {}
    for override in overrides:
        group, _, setting = override.split("=", 1)[0].lstrip("+~").split("@")[-1].partition(".")
        found.setdefault(group, set()).add(setting.partition(".")[0])
    return found


def needed(overrides: Sequence[str]) -> list[str]:
    """The groups of a checkpoint that are made anew: those it brings but for what the command line chooses as a whole.

    Guidance is, in any case: it says whether the network took labels.
    """
    given = settings_given(overrides)
    return [group for group in TAKEN_OVER if group not in CHOICES or "" not in given.get(group, set())]


def chosen(group: str, saved: Config, composed: Config, given: set[str]) -> Config:
    """The node of a group: that of the checkpoint, with the settings that are given, or the option that is."""
    if "" in given:
        return composed
    for name in given:
        check_known(OmegaConf.create({group: saved}), f"{group}.{name}")
    return {**saved, **{name: composed[name] for name in given if name in composed}}


def guided(saved: Config, composed: Config, given: dict[str, set[str]]) -> Config:
    """The node of guidance: as the command chooses it, or as it was, with or without labels as the images have them."""
    asked, labelled = given.get("guidance", set()), (AUTOMATIC, LABELLED)
    if "" in asked:
        return composed
    if saved["_target_"] == UNLABELLED["_target_"]:
        return composed if "" in given.get("data", set()) else saved
    if saved["_target_"] not in labelled:
        return saved
    names = {*GUIDING, *asked} if composed["_target_"] in labelled else set[str]()
    return {**saved, "_target_": AUTOMATIC, **{name: composed[name] for name in names if name in composed}}


# ----------------------------------------------------------------------------------- the images, the weights


def start_from(start: Config, network: nn.Module, recipe: Recipe) -> None:
    """Fill a network with the averaged weights of another run, and say what of it was kept.

    Args:
        start: the checkpoint.
        network: of the new run, on the CPU.
        recipe: of the new run.

    Raises:
        UserError: the weights do not fit.
    """
    weights, before, image = start["ema"]["network"], start["image"], recipe.image
    had = before["class_names"] if build(start["config"]["guidance"], "guidance").conditional else []
    now = image["class_names"] if recipe.num_classes else []
    shapes = {name: value.shape for name, value in network.state_dict().items()}
    try:
        network.load_state_dict(carried(weights, shapes, (had, now), (before["channels"], image["channels"])))
    except (ValueError, RuntimeError, TypeError, IndexError, ArithmeticError) as error:
        raise UserError(f"checkpoint: the weights of that run do not fit these images: {error}.") from error
    # Classes are told below, and other labels or images to test with are nobody's surprise here.
    same = {name: before[name] for name in ("class_names", "labels", "test") if name in before}
    changed = difference({**image, **same}, before)
    if changed is not None:
        log.info("Other images than in the run that this one starts from: %s.", changed)
    sigma_data = recipe.config["objective"].get("sigma_data")
    if sigma_data is not None and sigma_data == before.get("sigma_data") != image["sigma_data"]:
        text = "objective.sigma_data stays %.4g, for which the network was trained; of these images it is %.4g."
        log.info(text, sigma_data, image["sigma_data"])
    if list(had) != list(now):
        log.info("Classes: %s.", classes_kept(had, now, LABELS in weights and BIAS not in weights))
    elif image["class_names"] and not before["class_names"]:
        log.info("These images have classes, unlike those of that run: add guidance=auto to train with them.")
    if before["channels"] != image["channels"]:
        text = (
            "The network was made for %s, and these images have %d: it starts from their mean, that is without colours."
        )
        log.warning(text, number_of(before["channels"], "channel"), image["channels"])


def classes_kept(had: Sequence[str], now: Sequence[str], forgets: bool = False) -> str:
    """What becomes of the classes, in words; `forgets`: without labels, the network cannot keep the row of none."""
    kept, new = ([name for name in now if (name in had) is known] for known in (True, False))
    gone = [name for name in had if name not in now]
    said = [f"{len(names)} {what} ({some(names)})" for what, names in (("kept", kept), ("new", new)) if names]
    if new:
        said[-1] += ', which start as "no class"' if had else ", which make no difference at first"
    if gone:
        said.append(f"{len(gone)} left out ({some(gone)})")
    if not now:
        begins = "without what it had learned for images of no class" if forgets else "as it drew images of no class"
        said.append(f"the network takes no labels any more and begins {begins}")
    return ", ".join(said)
