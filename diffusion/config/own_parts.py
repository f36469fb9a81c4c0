"""Parts of the user's own: what a class or function must be to stand where one of ours does.

Each group has a base class, from which a part of the user's own derives; `docs/your_own.md` shows one of each.
"""

import inspect
import pkgutil
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from diffusion.config import own_formulas, trust
from diffusion.data.shapes import pair
from diffusion.evaluation.cache import cache_key
from diffusion.system.errors import UserError

# group → what its parts derive from
BASES = {
    "data": ("diffusion.data.images.ImageData",),
    "model": ("torch.nn.Module",),
    "schedule": ("diffusion.schedule.Schedule",),
    "objective": ("diffusion.objective.Objective",),
    "loss": ("diffusion.loss.Weighted",),
    "timesteps": ("diffusion.timesteps.Timesteps",),
    "guidance": ("diffusion.guidance.ClassifierFree", "diffusion.guidance.Unconditional"),
    "ema": ("diffusion.ema.EMA", "diffusion.ema.PowerEMA"),
    "sampler": ("diffusion.sampler.Sampler",),
    "preview": ("diffusion.sampler.Sampler",),
    "optimizer": ("torch.optim.Optimizer",),
    "features": ("diffusion.evaluation.features.base.Features",),
    "task": ("diffusion.tasks.Task",),
}
# group → methods that the base leaves to who derives from it; of those with | between them one
METHODS = {
    "model": ("forward",),
    "schedule": ("__call__", "time_at"),
    "objective": ("coefficients", "target"),
    "loss": ("of_snr|weight|__call__",),
    "timesteps": ("__call__",),
    "sampler": ("step|sample",),
    "preview": ("step|sample",),
    "optimizer": ("step",),
    "features": ("extract|__call__",),
    "task": ("run",),
}
# group → what the constructor of the base sets
SET = {
    "data": ("train", "test", "class_names"),
    "guidance": ("scale", "conditional"),
    "ema": ("network",),
    "sampler": ("steps", "clip", "grid"),
    "preview": ("steps", "clip", "grid"),
    "optimizer": ("param_groups",),
    "features": ("data", "device", "cache"),
}


def own_part(name: str, key: str) -> Any:
    """The class or function of a trusted module that is called `name`, which must suit the group `key`.

    Raises:
        UserError: it is missing, is another module's, or derives from none of the group's base classes.
    """
    said, module = f"{key}._target_={name}", trust.covering(name)
    place, _, inner = name.rpartition(".")
    if key not in BASES:
        raise UserError(f"{said}: parts of your own are of the groups {', '.join(BASES)}; {key} is none of them.")
    loaded = trust.load(place)
    target = getattr(loaded, inner, None)
    if target is None:
        there = [n for n, value in vars(loaded).items() if getattr(value, "__module__", None) == place and n[0] != "_"]
        has = f"it has {', '.join(there)}" if there else "it defines nothing"
        raise UserError(f"{said} does not exist in {getattr(loaded, '__file__', place)}: {has}.")
    defined = str(getattr(target, "__module__", None))
    if not f"{defined}.".startswith(f"{module}."):  # a name that the trusted module imported itself
        raise UserError(f"{said} is not allowed: it is defined in {defined}, and not in {module}, which is trusted.")
    bases = BASES[key]
    check_kind(target, key, said)
    for methods in METHODS.get(key, ()) if inspect.isclass(target) else ():
        names = methods.split("|")
        kinds = [pkgutil.resolve_name(base) for base in bases]
        if all(any(getattr(target, each) is getattr(kind, each, None) for kind in kinds) for each in names):
            raise UserError(
                f"{said} has no {' or '.join(names)} of its own, which {bases[0]} leaves to it: write it as it is "
                "described there."
            )
    return target


def check_ours(target: Any, key: str, name: str) -> None:
    """Raise `UserError` for what is of this package but no option: a helper, or a base that leaves its methods open."""
    said = f"{key}._target_={name}"
    if inspect.isclass(target) and any(leaves_open(method) for method in vars(target).values()):
        raise UserError(f"{said} is not allowed: it is what the options of {key} have in common, and none itself.")
    if key in BASES and name != "diffusion.evaluation.features.automatic.automatic":  # which chooses one of them
        check_kind(target, key, f"{said} is not allowed: it")


def leaves_open(method: Any) -> bool:
    """Whether a method is left to the classes that derive from its own."""
    return "NotImplementedError" in getattr(getattr(method, "__code__", None), "co_names", ())


def check_kind(target: Any, key: str, said: str) -> None:
    """Raise `UserError` unless this is a class that derives from a base of the group, or for data a function."""
    try:
        signature = inspect.signature(target, eval_str=True)
    except Exception as error:  # annotations are evaluated, and may be anything
        raise UserError(f"{said}: its arguments cannot be read ({type(error).__name__}: {error}).") from error
    bases = BASES[key]
    if inspect.isclass(target) and issubclass(target, tuple(pkgutil.resolve_name(base) for base in bases)):
        return
    if key != "data":
        raise UserError(f"{said} must be a class that derives from {' or '.join(bases)}.")
    returns, base = signature.return_annotation, pkgutil.resolve_name(bases[0])
    if not (inspect.isfunction(target) and inspect.isclass(returns) and issubclass(returns, base)):
        raise UserError(
            f"{said} must be a function that says that it returns ImageData, def {target.__name__}(…) -> ImageData, "
            f"with {bases[0]}."
        )


def check_takes(target: Any, key: str, name: str, given: Collection[str]) -> None:
    """Raise `UserError` unless a constructor takes all that a run gives it."""
    parameters = inspect.signature(target).parameters
    missing = [each for each in given if each not in parameters]
    if missing and not any(each.kind is each.VAR_KEYWORD for each in parameters.values()):
        raise UserError(
            f"{key}._target_={name} must also take {', '.join(missing)}: the run gives {', '.join(given)} to every "
            f"{key}, by these names."
        )


def failed(error: Exception, key: str, name: str) -> UserError:
    """The sentence for an error in the constructor of a part of the user's own."""
    return UserError(f"{key}._target_={name} cannot be made: {trust.told(error, str(trust.covering(name)))}.")


def checked(part: Any, key: str, name: str, settings: dict[str, Any]) -> Any:
    """A part of the user's own, complete; `settings` are the arguments that it was made with.

    Raises:
        UserError: it is not what its group needs.
    """
    said = f"{key}._target_={name}"
    kinds: tuple[Any, ...] = tuple(pkgutil.resolve_name(base) for base in BASES[key])
    if not isinstance(part, kinds):
        raise UserError(f"{said} returns {type(part).__name__}, and must return {BASES[key][0]}.")
    for attribute in SET.get(key, ()):
        if not hasattr(part, attribute):
            raise UserError(f"{said} has no {attribute}: call super().__init__(…) in its constructor.")
    try:
        own_formulas.check(part)
    except Exception as error:
        told = str(error) if type(error) is ValueError else trust.told(error, str(trust.covering(name)))
        raise UserError(f"{said}: {told}.") from error
    if key == "data":
        check_images(part, said)
    elif key == "optimizer" and any("lr" not in group for group in part.param_groups):
        raise UserError(
            f"{said} has no lr, which training raises and lowers: give it as one of the optimizer's defaults."
        )
    elif key == "features":  # nothing from the cache that an older source put there
        part.name = getattr(part, "name", name)
        known = getattr(part, "fingerprint", "")
        part.fingerprint = cache_key(name, settings, known, trust.source_hash(str(trust.covering(name))))
    return part


def check_images(data: Any, said: str) -> None:
    """Raise `UserError` unless both splits hold uint8 images of one shape, with labels where there are classes."""
    shapes = []
    for split in (data.train, data.test):
        images, labels = split.select(torch.zeros(1, dtype=torch.long))
        if images.dtype != torch.uint8 or images.ndim != 4:
            raise UserError(
                f"{said}: its images are {str(images.dtype).removeprefix('torch.')} of {images.ndim} dimensions, and "
                "must be uint8 (N, C, H, W), from 0 to 255."
            )
        if data.class_names and (split.labels is None or len(split.labels) != len(split)):
            raise UserError(f"{said}: it names {len(data.class_names)} classes, so every image needs a label.")
        if labels is not None and labels.dtype != torch.int64:
            raise UserError(f"{said}: its labels are {labels.dtype}, and must be whole numbers, torch.int64.")
        shapes.append(tuple(images.shape[1:]))
    if shapes[0] != shapes[1]:
        raise UserError(f"{said}: its training images are {shapes[0]} (C, H, W) and its test images {shapes[1]}.")


@torch.no_grad()
def check_network(
    network: nn.Module, name: str, channels: int, image_size: int | Sequence[int], num_classes: int, out_channels: int
) -> None:
    """One forward pass of two images, so that what is wrong with a network is told before anything takes time.

    Args:
        network: on the CPU; what it leaves out of `num_classes` it is given.
        name: dotted, of its class.
        channels, image_size: of what it sees.
        num_classes: K; labels go from 0 to K, which is the null class; 0 for none.
        out_channels: of what it must return.

    Raises:
        UserError: it fails, or returns another shape.
    """
    if not hasattr(network, "num_classes"):
        network.num_classes = num_classes  # type: ignore[assignment]
    said, training = f"model._target_={name}", network.training
    sides = pair(image_size)
    x, t = torch.zeros(2, channels, *sides), torch.tensor([1.0, 1000.0])
    labels = torch.tensor([0, num_classes]) if num_classes else None
    shown = f"labels [0, {num_classes}]" if num_classes else "no labels"
    taken = f"x {tuple(x.shape)}, t (2,) from 0 to 1000 and {shown}"
    network.eval()
    try:
        with torch.random.fork_rng(devices=[]):
            found = network(x, t, labels)
    except Exception as error:
        why = trust.told(error, str(trust.covering(name)))
        raise UserError(f"{said} fails for {taken}: {why}.") from error
    finally:
        network.train(training)
    wanted = (2, out_channels, *sides)
    if not isinstance(found, torch.Tensor) or tuple(found.shape) != wanted or not found.is_floating_point():
        got = tuple(found.shape) if isinstance(found, torch.Tensor) else type(found).__name__
        raise UserError(f"{said} returns {got} for {taken}, and must return floats of the shape {wanted}.")
