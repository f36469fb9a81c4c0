"""Data sets of the library `datasets` (pip install -e ".[hub]"): of the Hugging Face Hub, or of a folder.

The library is asked for tables and pictures alone, see `diffusion.data.table_folder`: none of its readers is chosen
by a name, and what it once called scripts, code that came with a data set, it no longer runs.
"""

import logging
import os
import re
from pathlib import Path
from typing import Any

from diffusion.data.augmentation import Augmentation
from diffusion.data.columns import ImageColumn, classes_in, holds_images
from diffusion.data.decoding import colour
from diffusion.data.fitting import check_fit
from diffusion.data.folders import some
from diffusion.data.images import ImageData
from diffusion.data.labelled import Labelled, in_splits
from diffusion.data.shapes import Padding, check_size, pair
from diffusion.data.splits import TEST, TRAINING, VALIDATION
from diffusion.data.table_folder import empty, open_tables
from diffusion.system.errors import UserError, brief

log = logging.getLogger("diffusion")
ON_THE_HUB = re.compile(r"\w[\w.-]*/\w[\w.-]*", re.ASCII)  # a bare name would be one of the library's own readers
PATIENCE = 10  # seconds until the Hub has answered


def huggingface(
    name: str,
    subset: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    labels: bool | None = None,
    image_size: int | list[int] | None = None,
    fit: str = "crop",
    channels: int | None = None,
    background: str | list[int] = "white",
    range: list[float] | None = None,
    layout: str | None = None,
    test_fraction: float = 0.1,
    padding: Padding = 0,
    flip: bool = False,
    shift: int = 0,
) -> ImageData:
    """A data set of the Hugging Face Hub, or of a folder on this machine.

    Args:
        name: on the Hub; or a folder that `save_to_disk` made, or one of parquet files or of images; or a parquet file.
        subset: which of its configurations.
        image_column: of images, or arrays; None takes the only one there is.
        label_column: of whole numbers or texts; None takes the only one of classes, or the one called label.
        labels: False trains without labels; True insists on them.
        image_size: [height, width] in pixels, or the side of a square; None keeps the images' own size, if it is one.
        fit: how images of another shape are brought to it, see `diffusion.data.fitting`.
        channels: 3 for colour, 1 for grey; None takes those of the first image.
        background: what shows through transparent pixels: white, black, "#rrggbb", or [r, g, b].
        range, layout: of arrays, as of `diffusion.data.datasets.arrays`.
        test_fraction: share of the images held out where there is no test split; every class keeps one to train.
        padding: as in `ImageData`.
        flip, shift: how training images are varied, see `diffusion.data.augmentation`.
    """
    if channels not in (None, 1, 3):
        raise ValueError(f"channels={channels}: images are grey (1) or colour (3)")
    if image_size is not None:
        check_size(image_size)
    size = None if image_size is None else pair(image_size)
    check_fit(fit)
    where, ground = f"data.name={name}", colour(background)
    tables = tables_of(name, subset, where)
    images = ImageColumn(size, fit, channels, ground, range, layout, places(name))
    first, others = by_use(tables, where)
    column = column_of_images(tables[first], image_column, where)
    label = None if labels is False else column_of_labels(tables[first], label_column, where)
    if labels and label is None:
        raise UserError(f"data.labels=true, but {where} has no column of labels: name it by data.label_column=….")
    train, test = load(tables, first, images, column, label, where), None
    for split in others:
        test = load(tables, split, images, column, label, where)
        if train.classes is None or test.classes is not None:
            break
        log.warning("%s: the images of split %s have no classes, so that they are not used.", where, split)
        test = None
    said = f"{len(train.images):,} images from {first}" + (
        f", {len(test.images):,} to test from {split}" if test else ""
    )
    log.info("%s: %s; images in column %s, %s.", where, said, column, f"labels in {label}" if label else "no labels")
    order = order_of_classes(tables[first], label, train.classes)
    ready = in_splits(train, test, order, test_fraction, where)
    return ImageData(
        Path(name).name or Path(name).resolve().name,
        *ready,
        padding,
        background=ground,
        augmentation=Augmentation(flip, shift),
    )


def load(
    tables: dict[str, Any], split: str, images: ImageColumn, column: str, label: str | None, where: str
) -> Labelled:
    """The images of a split, from one column, with their classes, from another."""
    table, what = tables[split], f"{where}, split {split}"
    for wanted in (column, label):
        if wanted is not None and wanted not in table.column_names:
            raise UserError(f"{what}, has no column {wanted}: give every split the same columns.")
    classes = None if label is None else classes_in(table, label, f"{what}, column {label}")
    return Labelled(images.read(table, column, f"{what}, column {column}"), classes)


def order_of_classes(table: Any, label: str | None, classes: list[str] | None) -> list[str] | None:
    """The classes that there are images of, in the order that the data set gives them, if it does."""
    names, used = None if label is None else getattr(table.features[label], "names", None), set(classes or ())
    return None if names is None or classes is None else [name for name in names if name in used]


def library() -> Any:
    """The library `datasets`; `UserError` where it is not installed."""
    try:
        import datasets

        _ = datasets.load_dataset, datasets.List  # of version 4, the first without scripts
    except (ImportError, AttributeError) as error:
        raise UserError('data=huggingface needs the library datasets: pip install -e ".[hub]".') from error
    datasets.logging.set_verbosity(logging.CRITICAL)  # what is wrong is told here, in a sentence
    return datasets


def tables_of(name: str, subset: str | None, where: str) -> dict[str, Any]:
    """The splits of a data set by their names; arguments as of `huggingface`."""
    datasets, path = library(), Path(name)
    try:
        if path.exists():
            datasets.disable_progress_bars()
            found = open_tables(datasets, path, subset, where)
        elif not ON_THE_HUB.fullmatch(name):
            raise UserError(f"{where} is no folder here, and data sets of the Hub are called OWNER/NAME.")
        else:
            found = from_hub(name, subset, where)
    except (UserError, MemoryError):
        raise
    except Exception as error:  # of many kinds: the library's, Arrow's, the network's
        if names := configurations(str(error)):
            wrong = f"has no configuration {subset}" if subset else "has several configurations"
            raise UserError(f"{where} {wrong}: choose from {some(names, 10)}, by data.subset={names[0]}.") from error
        if nothing := re.search(r'"(.+)" corresponds to no data', str(error)):
            raise empty(where, f"its split {nothing[1]}") from error
        raise UserError(
            f"{where} cannot be read by the library datasets ({brief(error.__cause__ or error, 200)})."
        ) from error
    return dict(found) if isinstance(found, dict) else {TRAINING[0]: found}


def configurations(error: str) -> list[str]:
    """The names that the library lists in the error with which it asks for one of them."""
    listing = re.search(r"(?:Config name is missing|BuilderConfig .* not found).*?(\[.*?\])", error, re.DOTALL)
    return re.findall(r"'([^']*)'", listing[1]) if listing else []


def from_hub(name: str, subset: str | None, where: str) -> Any:
    """A data set of the Hub; what was fetched before is enough where that cannot be reached."""
    datasets = library()
    from huggingface_hub import HfApi

    offline = datasets.config.HF_HUB_OFFLINE
    known, way_out = fetched(name), "connect this machine, or give a folder that save_to_disk made"
    if offline and not known:
        raise UserError(f"{where} is no folder here, nor was it fetched before HF_HUB_OFFLINE was set: {way_out}.")
    try:
        if not offline:  # asked first, because the library would try for half a minute
            HfApi().dataset_info(name, timeout=PATIENCE)
    except Exception as error:  # of many kinds, most of them of the library for the network
        if "RepositoryNotFoundError" in {kind.__name__ for kind in type(error).__mro__}:
            raise UserError(
                f"{where} is no folder here, and the Hub shows no data set of that name: check it."
            ) from error
        if not known:
            raise UserError(
                f"{where} is no folder here, and the Hub cannot be reached ({brief(error)}): {way_out}."
            ) from error
        log.warning("The Hub cannot be reached (%s): %s is taken as it was fetched before.", brief(error), where)
        datasets.config.HF_HUB_OFFLINE = True
    try:
        return datasets.load_dataset(name, subset)
    finally:
        datasets.config.HF_HUB_OFFLINE = offline


def fetched(name: str) -> bool:
    """Whether a data set of the Hub was fetched before; other folders are kept beside them, by a bare name."""
    if not ON_THE_HUB.fullmatch(name):
        return False
    kept, wanted = Path(library().config.HF_DATASETS_CACHE), name.replace("/", "___").lower()
    return kept.is_dir() and any(place.is_dir() and place.name.lower() == wanted for place in kept.iterdir())


def places(name: str) -> list[Path]:
    """Where files may lie that a data set names: in its own folder, or where the library keeps what it fetched."""
    return [Path(name) if os.path.isdir(name) else Path(library().config.HF_CACHE_HOME)]


def by_use(tables: dict[str, Any], where: str) -> tuple[str, list[str]]:
    """The split to train with, and those to test with, the best first."""
    names = {name.lower(): name for name in tables if len(tables[name])}
    train = next((names[word] for word in TRAINING if word in names), None)
    if train is None and len(tables) == 1:
        train = next(iter(tables))
    unfilled = next((name for name in tables if name.lower() in TRAINING), None)
    if train is None and unfilled is not None:
        raise empty(where, f"its split {unfilled}")
    if train is None:
        raise UserError(f"{where} has the splits {some(list(tables), 10)}, and none of them is called train.")
    return train, [names[word] for word in (*TEST, *VALIDATION) if word in names and names[word] != train]


def column_of_images(table: Any, column: str | None, where: str) -> str:
    """The column of images that was asked for, or else the only one."""
    found = [name for name, feature in table.features.items() if holds_images(feature)]
    if column is None and len(found) == 1:
        return found[0]
    if column is None:
        kinds = f"{len(found)} columns of images" if found else "no column of images"
        raise UserError(f"{where} has {kinds}: choose one of {listed(table)} by data.image_column=….")
    if column not in table.column_names:
        raise UserError(f"data.image_column={column} is no column of {where}: choose from {listed(table)}.")
    if column not in found:
        raise UserError(f"data.image_column={column} holds no images, nor arrays of their shape: {listed(table)}.")
    return column


def column_of_labels(table: Any, column: str | None, where: str) -> str | None:
    """The column of labels that was asked for, or else the only one of classes, or one of that name."""
    if column is not None:
        if column not in table.column_names:
            raise UserError(f"data.label_column={column} is no column of {where}: choose from {listed(table)}.")
        return column
    found = [name for name, feature in table.features.items() if type(feature).__name__ == "ClassLabel"]
    found = found or [name for name in table.column_names if name.lower() in ("label", "labels")]
    if len(found) > 1:
        raise UserError(f"{where} has labels in {' and '.join(found)}: choose by data.label_column={found[0]}.")
    return found[0] if found else None


def listed(table: Any) -> str:
    """The columns of a table, with what they hold."""
    return some([f"{name} ({type(feature).__name__})" for name, feature in table.features.items()], 12)
