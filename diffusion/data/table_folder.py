"""A folder of tables or images, read by the library `datasets`: only what lies in it, and only tables and pictures.

The folder may come from a stranger, and its README.md, .huggingface.yaml and lists of files may name other places.
"""

import glob
import json
import os
from pathlib import Path, PureWindowsPath
from typing import Any

from diffusion.system.errors import UserError

SAVED = ("dataset_dict.json", "state.json")  # what save_to_disk leaves
CARDS = ("README.md", ".huggingface.yaml")  # which say where a folder's files are
READ = ("parquet", "arrow", "imagefolder")  # the library's readers that are let near a folder


def open_tables(datasets: Any, path: Path, subset: str | None, where: str) -> Any:
    """The splits of a folder, or of a parquet file.

    The library is always given a whole path, since a bare name could be one of its own readers, which look around in
    the working directory; one of them unpickles.

    Args:
        datasets: the library.
        path: of a folder or a parquet file.
        subset: which of its configurations.
        where: it was named, for messages.

    Raises:
        UserError: it names files elsewhere, or holds neither tables nor images.
    """
    place = os.path.abspath(path)
    if path.is_file():
        if path.suffix != ".parquet":
            raise ValueError("a file must be .parquet")
        return datasets.load_dataset("parquet", data_files={"train": glob.escape(place)})
    if any((path / mark).exists() for mark in SAVED):
        check_saved(path, where)
        return datasets.load_from_disk(place)
    check_cards(path, where)
    builder = datasets.load_dataset_builder(place, subset)
    if builder.name not in READ:
        raise UserError(f"{where} holds neither parquet files nor images (the library takes it for {builder.name}).")
    inside = Path(place).resolve()
    for file in (file for files in (builder.config.data_files or {}).values() for file in files):
        if not Path(file).is_relative_to(inside):
            raise outside(where, file, "its list of files")
    builder.download_and_prepare()
    return builder.as_dataset()


def check_cards(path: Path, where: str) -> None:
    """Raise `UserError` where what describes a folder names files outside it; arguments as of `open_tables`."""
    import yaml
    from huggingface_hub import DatasetCard

    for name in CARDS:
        card = path / name
        if not card.is_file():
            continue
        if name == "README.md":
            said: Any = DatasetCard.load(card).data.to_dict()
        else:
            said = yaml.safe_load(card.read_text(encoding="utf-8")) or {}
        for config in said.get("configs") or []:
            for text in texts([config.get("data_files"), config.get("data_dir")]):
                parts = (*Path(text).parts, *PureWindowsPath(text).parts)
                if ":" in text or os.path.isabs(text) or ".." in parts or text.startswith("~"):
                    raise outside(where, text, name)


def check_saved(path: Path, where: str) -> None:
    """Raise `UserError` where a split that save_to_disk wrote is empty, or names files outside the folder."""
    folders, whole = [path], path / "dataset_dict.json"
    if whole.is_file():
        splits = json.loads(whole.read_text(encoding="utf-8"))["splits"]
        folders += [path / of_one_word(split, where, whole.name) for split in splits]
    for state in (folder / "state.json" for folder in folders):
        if state.is_file():
            files = json.loads(state.read_text(encoding="utf-8"))["_data_files"]
            if not files:  # which the library cannot read
                raise empty(where, state.parent.name)
            for file in files:
                of_one_word(file["filename"], where, state.name)


def of_one_word(name: str, where: str, named_by: str) -> str:
    """The name of a file or folder; `UserError` where it is a path to another place."""
    if name in ("", ".", "..") or set(name) & set("/\\:"):
        raise outside(where, name, named_by)
    return name


def empty(where: str, what: str) -> UserError:
    """That a split, or the folder of one, holds nothing."""
    return UserError(f"{where}: {what} is empty: leave it out, or fill it.")


def outside(where: str, file: str, named_by: str) -> UserError:
    """That a folder names a file that is not in it."""
    return UserError(f"{where}: {named_by} names a file outside the folder, {str(file)[:200]}: put it into the folder.")


def texts(node: Any) -> list[str]:
    """The texts anywhere in lists and dicts."""
    if isinstance(node, dict | list | tuple):
        return [text for each in (node.values() if isinstance(node, dict) else node) for text in texts(each)]
    return [node] if isinstance(node, str) else []
