"""The weights of a trained network in one for other images: other classes, other channels, another size.

The table of labels has a row for each of K classes and one more, the last, for "no label". A row goes where its name
goes; a new class starts as "no label", the best guess that the network has for an image it knows nothing of:

    table'[k] = table[number of name k]  or  table[-1] where that name is new,    table'[-1] = table[-1]

A network without labels gets a table of zeros, which changes nothing; one that loses them keeps the row of "no label"
as part of the bias that the embedding of t ends with, where it has one.

Of channels, each old one sees the mean of the new ones, and each new one is answered by the mean of the old ones: a
grey network begins in colour with grey images of what it sees. Nothing else depends on the size of the images.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

Weights = dict[str, Tensor]
LABELS, BIAS = "conditioning.label.weight", "conditioning.time.2.bias"


def carried(
    weights: Mapping[str, Tensor],
    shapes: Mapping[str, torch.Size],
    classes: tuple[Sequence[str], Sequence[str]],
    channels: tuple[int, int],
) -> Weights:
    """Weights of one network as those of another of the same kind.

    Args:
        weights: of the trained network.
        shapes: of the weights of the other, by name.
        classes: names that the table of labels had, and has now, each in order; none for a network without labels.
        channels: of the images, before and now.

    Raises:
        ValueError: the two networks differ in more than that.
    """
    found = with_classes(weights, *classes, shapes)
    if channels[0] != channels[1]:
        found = with_channels(found, *channels)
    wrong = [name for name in {**shapes, **found} if name not in found or shapes.get(name) != found[name].shape]
    if wrong:
        raise ValueError(f"its network and the new one differ in {wrong[0]}")
    return found


def with_classes(
    weights: Mapping[str, Tensor], had: Sequence[str], now: Sequence[str], shapes: Mapping[str, torch.Size]
) -> Weights:
    """Weights whose table of labels has the classes `now` instead of those it `had`; arguments as in `carried`."""
    found = dict(weights)
    table = found.pop(LABELS, None)
    if table is None:
        if had and list(had) != list(now):
            raise ValueError("its network keeps its labels elsewhere than in networks.layers.Conditioning")
        return found if LABELS not in shapes else {**found, LABELS: torch.zeros(shapes[LABELS])}
    if len(table) != len(had) + 1:
        raise ValueError(f"its table of labels has {len(table)} rows for {len(had)} classes")
    null = len(had)
    if now:
        number = {name: k for k, name in enumerate(had)}
        found[LABELS] = table[torch.tensor([*(number.get(name, null) for name in now), null])]
    elif BIAS in found:
        found[BIAS] = found[BIAS] + table[null]
    return found


def with_channels(weights: Mapping[str, Tensor], had: int, now: int) -> Weights:
    """Weights whose first and last layers are for `now` channels instead of `had`; of several heads each by itself.

    The layers see channels and the pixels of a patch as one axis, the channel being the slower part of it.
    """
    first = next((name for name in weights if name.startswith("first.")), "")
    last = [name for name in weights if name.startswith("last.")][-2:]  # weight and bias
    found = dict(weights)
    if not first or not last or found[first].shape[1] % had or any(found[name].shape[0] % had for name in last):
        raise ValueError(f"its network shows no layers that could be made for {now} channels instead of {had}")
    sides = found[first].unflatten(1, (had, -1)).sum(dim=1, keepdim=True)  # (width, 1, patch², …)
    found[first] = (sides.repeat_interleave(now, dim=1) / now).flatten(1, 2)
    for name in last:
        heads = found[name].shape[0] // pixels(found[first], now) // had
        answers = found[name].unflatten(0, (heads, had, -1)).mean(dim=1, keepdim=True)  # (heads, 1, patch², …)
        found[name] = answers.repeat_interleave(now, dim=1).flatten(0, 2)
    return found


def pixels(first: Tensor, channels: int) -> int:
    """Pixels of a patch, from the weights of a first layer."""
    return first.shape[1] // channels
