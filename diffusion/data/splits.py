"""What the subfolders of a folder of images mean: splits by their usual names, and classes.

train/cat/1.png  test/cat/2.png      splits, with classes in them
cat/1.png  dog/2.png                 classes; a part of the images is held out for testing
1.png  2.png                         no classes
"""

import logging
import re
import shlex
from collections import Counter
from collections.abc import Callable, Container, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from diffusion.data.folders import RUN, Contents, contents, number_of, some
from diffusion.data.images import ImageData
from diffusion.system.errors import UserError
from diffusion.system.files import no_text
from diffusion.system.randomness import SPLIT, stream

log = logging.getLogger("diffusion")
TRAINING, TEST = ("train", "training"), ("test", "testing")
VALIDATION = ("val", "valid", "validation", "dev", "eval", "evaluation")
OF_A_SPLIT = re.compile(r"(?<=\w)[-_ ]?(set|images?|imgs|data|dataset)$")  # test_set, testset, test-images
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)

Labelled = tuple[Path, str | None]  # an image, and the class that the folder it is in names


class Splits(NamedTuple):
    """The images of a folder.

    Args:
        train, test: files, each with the name of its class or None.
        class_names: in order; empty where there are no labels.
    """

    train: list[Labelled]
    test: list[Labelled]
    class_names: list[str]


class Roles(NamedTuple):
    """Which folders are which split: of training, of testing (None: a part is held out), and those not used."""

    train: Path
    test: Path | None
    unused: list[Path]


def find_splits(
    root: str,
    labels: bool | None,
    test_fraction: float,
    readable: Callable[[list[Path]], Container[Path]] = set,
) -> Splits:
    """The images below `root` as two splits; what was taken for what, and what was left out, is told in the log.

    Args:
        root: the setting data.root.
        labels: take the subfolders as classes; None means: if there are any.
        test_fraction: share of the images to hold out where there is no folder of test images.
        readable: those of some files that can be read; the others are left out.

    Raises:
        UserError: there are too few images, or not all of them have a class.
    """
    folder, where = Path(root), f"data.root={root}"
    found = contents(folder, "data.root")
    parts: dict[Path, list[Path]] = {}  # the folder itself, and those directly in it → the images below
    for path in found.images:
        within = path.relative_to(folder).parts[:-1]
        parts.setdefault(folder / within[0] if within else folder, []).append(path)
    roles = roles_of(parts, folder)
    train = classed(parts, roles.train, folder)
    test = [] if roles.test is None else classed(parts, roles.test, folder)
    labelled = labels or (labels is None and any(name is not None for _, name in train + test))
    if roles.test is not None and labelled and not any(name for _, name in test) and all(name for _, name in train):
        log.warning("%s: the images in %s/ are of no class, so they are not used.", where, roles.test.name)
        roles, test = Roles(roles.train, None, [roles.test, *roles.unused]), []
    stray = next((path for path, name in train + test if name is None), None)
    if labelled and stray is not None:
        raise UserError(
            f"data.labels: not every image of {where} lies in a subfolder that names its class ({stray.name} does "
            "not); set data.labels=false to train without labels."
        )
    whole = readable([path for path, _ in train + test])
    train, test = ([each for each in part if each[0] in whole] for part in (train, test))
    if roles.test is None:
        train, test = held_out(train, test_fraction, bool(labelled), where)
    tell(roles, parts, len(train), len(test), folder, where)
    tell_empty(found, roles, folder, where)
    if not labelled:
        return Splits(train, test, [])
    names = class_order({str(name) for _, name in train})
    alike = [name for name in names if of_split(name) in (*TRAINING, *TEST, *VALIDATION)]
    if alike:
        others = some([name for name in names if name not in alike])
        log.warning("%s: %s is taken for a class, beside %s.", where, some(alike), others)
    for name in names:
        why = no_text(name)
        if why:
            raise UserError(f"{where}: the folder name {name!a} {why}.")
    if len(names) > 1:  # one is no label
        log.info("%s: %s classes: %s.", where, f"{len(names):,}", some(names, 10))
    return Splits(train, of_classes(test, names, where), names)


def roles_of(parts: dict[Path, list[Path]], folder: Path) -> Roles:
    """Which of the folders in `folder` are splits; arguments as in `find_splits`.

    A folder with the name of a split may also be a class (`train` beside `bus` and `car`): it is a split where there
    are training and test images, where it holds classes itself, or where there is nothing else.
    """

    def named(names: Sequence[str]) -> list[Path]:
        def order(place: Path) -> tuple:
            plain = of_split(place.name)
            return names.index(plain), place.name.lower() != plain, plain != place.name, place.name

        return sorted((place for place in parts if place != folder and of_split(place.name) in names), key=order)

    training, tests, validation = named(TRAINING), named(TEST), named(VALIDATION)
    splits = [*training, *tests, *validation]
    train, test = next(iter(training), None), next(iter(tests + validation), None)
    if train is None and len(splits) == len(parts):  # test images alone, or with some for validation
        train = next(iter(validation + tests))
        test = test if test != train else None
    elif train is not None and test is None:
        classes = [place for place in parts if place not in (folder, *training)]
        if classes and all(path.parent == train for path in parts[train]):
            train = None
    if train is None:
        return Roles(folder, None, [])
    return Roles(train, test, [place for place in parts if place not in (train, test)])


def of_split(name: str) -> str:
    """The name of a folder as those of splits are written: `Test`, `test_set` and `test-images` are all `test`."""
    return OF_A_SPLIT.sub("", name.lower())


def classed(parts: dict[Path, list[Path]], base: Path, folder: Path) -> list[Labelled]:
    """The images of a split, each with the name of the subfolder of `base` that it is in, or None."""
    paths = parts[base] if base != folder else [path for place in parts.values() for path in place]
    return [(path, None if path.parent == base else path.relative_to(base).parts[0]) for path in sorted(paths)]


def held_out(
    found: list[Labelled], fraction: float, labelled: bool, where: str
) -> tuple[list[Labelled], list[Labelled]]:
    """Training and test images: in a random order that is always the same, the first that leave their class one."""
    if len(found) < 2:
        raise UserError(f"{where} holds {len(found)} image: at least 2 are needed.")
    order = torch.randperm(len(found), generator=stream(0, SPLIT)).tolist()
    n = min(max(1, round(fraction * len(order))), len(order) - 1)
    kinds = [name if labelled else None for _, name in found]
    left, test = Counter(kinds), set[int]()
    for i in order:
        if len(test) < n and left[kinds[i]] > 1:
            left[kinds[i]] -= 1
            test.add(i)
    if not test:
        raise UserError(
            f"{where} holds one image of every class, so that none can be held out for testing: add images, or set "
            "data.labels=false to train without labels."
        )
    return [f for i, f in enumerate(found) if i not in test], [f for i, f in enumerate(found) if i in test]


def of_classes(test: list[Labelled], names: Sequence[str], where: str) -> list[Labelled]:
    """The test images of classes that are trained; the others are named.

    A class that is written otherwise in capitals alone, cat/ beside Cat/, is the same where no other could be meant.
    """
    known, given = set(names), {str(name) for _, name in test}
    spelled = Counter(name.casefold() for name in known), Counter(name.casefold() for name in given)
    meant = {name.casefold(): name for name in names}
    joined = {name: meant[name.casefold()] for name in class_order(given - known) if name.casefold() in meant}
    joined = {name: own for name, own in joined.items() if all(count[name.casefold()] == 1 for count in spelled)}
    if joined:
        pairs = some([f"{name} for {own}" for name, own in joined.items()], 10)
        log.info("%s: classes of the test images are taken for those of the same letters: %s.", where, pairs)
    test = [(path, joined.get(str(name), name)) for path, name in test]
    foreign = Counter(str(name) for _, name in test if name not in known)
    if not foreign:
        return test
    text = some(class_order(foreign), 10)
    if foreign.total() == len(test):
        raise UserError(
            f"{where}: the classes of the test images ({text}) are none of those of the training images "
            f"({some(names, 10)}): name the folders alike, or set data.labels=false."
        )
    log.warning("%s: no training images of %s, so its test images (%d) are left out.", where, text, foreign.total())
    return [(path, name) for path, name in test if name in known]


def tell(roles: Roles, parts: dict[Path, list[Path]], train: int, test: int, folder: Path, where: str) -> None:
    """One line about which folder was taken for which split; none where no folder was."""
    if roles.train == folder:
        (only, *others), text = (
            parts,
            "%s: all images are in %s/: if its subfolders are the classes, or the splits, give %s.",
        )
        if not others and only != folder and any(path.parent != only for path in parts[only]):
            log.info(text, where, only.name, shlex.quote(f"data.root={only}"))
        return
    source = f"{number_of(train + test, 'image')} from {roles.train.name}/, {test:,} of them held out for testing"
    if roles.test is not None:
        source = f"{number_of(train, 'training image')} from {roles.train.name}/, "
        source += f"{number_of(test, 'test image')} from {roles.test.name}/"
    rest = [f"{place.name}/ ({len(parts[place]):,})" for place in roles.unused if place != folder]
    rest += [f"{number_of(len(parts[folder]), 'image')} beside these folders"] if folder in roles.unused else []
    log.info("%s: %s%s.", where, source, f"; not used: {some(rest, 10)}" if rest else "")


def tell_empty(found: Contents, roles: Roles, folder: Path, where: str) -> None:
    """Name the folders that would be classes or splits, but hold no image."""
    runs = [folder / name for name in found.passed.get(RUN, [])]
    filled = {parent for path in [*found.images, *runs] for parent in path.parents}
    outer = (folder, roles.train, roles.test)
    empty = {place.name for place in found.folders if place.parent in outer and place not in filled}
    if empty:
        log.warning("%s: no images in %s.", where, some(class_order(empty), 10))


def class_order(names: Iterable[str]) -> list[str]:
    """Names in an order that people expect: numbers by their value (2 before 10), also within names (img2, img10)."""
    names = list(names)
    if all(NUMBER.fullmatch(name) for name in names):
        return sorted(names, key=lambda name: (float(name), name))

    def key(name: str) -> tuple[list[str | int], str]:
        parts = re.split(r"(\d+)", name)
        return [int(part) if i % 2 else part for i, part in enumerate(parts)], name

    return sorted(names, key=key)


def number_as(data: ImageData, names: Sequence[str]) -> None:
    """Number the classes of `data` as `names` does, if these are the same in another order; a run keeps its own."""
    if data.class_names == list(names) or sorted(data.class_names) != sorted(names):
        return
    new = torch.tensor([list(names).index(name) for name in data.class_names])
    for split in (data.train, *([data.test] if data.test is not data.train else [])):
        if split.labels is not None:
            split.labels = new.to(split.labels.device)[split.labels]
    data.class_names = list(names)
