"""Parts of a network that stay as they are while the rest is trained: no gradient, no place in the optimizer."""

import difflib
import logging
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

log = logging.getLogger("diffusion")


def freeze(network: nn.Module, patterns: Sequence[str]) -> None:
    """Keep the parameters whose names match any of some patterns as they are.

    Args:
        network: changed in place.
        patterns: as for file names, of whole names: "down.*", "*.attention.*", "conditioning.label.weight".

    Raises:
        ValueError: a pattern matches nothing, or nothing is left to train; a sentence of its own.
    """
    parameters = dict(network.named_parameters())
    for pattern in patterns:
        found = [name for name in parameters if fnmatchcase(name, pattern)]
        if not found:
            raise ValueError(f"freeze={pattern} names no parameter of the network; {near(pattern, network)}")
        for name in found:
            parameters[name].requires_grad_(False)
    if not any(parameter.requires_grad for parameter in parameters.values()):
        raise ValueError(f"freeze={list(patterns)} leaves nothing to train: name fewer parts")
    if patterns:
        trained = sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad)
        total = sum(parameter.numel() for parameter in parameters.values())
        log.info(
            "Frozen by training.freeze: %s of %s weights; the other %s are trained.",
            f"{total - trained:,}",
            f"{total:,}",
            f"{trained:,}",
        )


def near(pattern: str, network: nn.Module) -> str:
    """What may have been meant by a pattern that matches nothing, in words."""
    names = [name for name, _ in network.named_parameters()]
    inner = {f"{name[:i]}.*": None for name in names for i, sign in enumerate(name) if sign == "."}
    close = difflib.get_close_matches(pattern, [*inner, *names], n=3, cutoff=0.6)
    if f"{pattern}.*" in inner:
        close = [f"{pattern}.*"]
    if close:
        return f"near are {', '.join(close)}"
    return f"its parts are {', '.join(dict.fromkeys(name.split('.')[0] + '.*' for name in names))}"
