"""Makes notebooks/NAME.ipynb, with its pictures, out of notebooks/NAME.py, the one to edit.

    python notebooks/build.py 0_from_scratch 1_flat_land     # all of them, if none is named

Each runs from top to bottom in an empty folder. What would differ from one machine or minute to the next is left out of
the file: paths, times of execution, the state of widgets, and every form of a picture but one. Needs
`pip install -e ".[notebooks]"`.
"""

import argparse
import base64
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

HERE = Path(__file__).parent.resolve()
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def execute(notebook: Any, folder: Path) -> None:
    """Run a notebook in a folder; its cells get their outputs. A cell that fails raises `CellExecutionError`."""
    for name in ("SMALL", "MPLBACKEND"):  # full sizes, and figures that are shown
        os.environ.pop(name, None)
    NotebookClient(
        notebook,
        timeout=None,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
        coalesce_streams=True,  # of a progress bar its last line alone
        record_timing=False,
    ).execute()


def cleaned(notebook: Any, folder: Path) -> Any:
    """The notebook without what depends on the machine or on the minute.

    Args:
        notebook: as `execute` left it.
        folder: in which it ran.
    """
    cells = []
    for number, cell in enumerate(notebook.cells):
        kept: dict[str, Any] = {"cell_type": cell.cell_type, "id": f"cell-{number}", "source": cell.source}
        kept["metadata"] = {"tags": cell.metadata["tags"]} if "tags" in cell.metadata else {}
        if cell.cell_type == "code":
            kept["execution_count"] = cell.execution_count
            kept["outputs"] = [clean(output, folder) for output in cell.outputs if seen(output)]
        cells.append(kept)
    metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    return nbformat.from_dict({"cells": cells, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def seen(output: dict[str, Any]) -> bool:
    """Whether there is something in an output: of a bar that vanishes at its end only blanks are left."""
    return "text" not in output or bool(output["text"].strip())


def clean(output: dict[str, Any], folder: Path) -> dict[str, Any]:
    """One output of a cell, cleaned."""
    output = dict(output)
    if "text" in output:
        output["text"] = without_paths(output["text"], folder).rstrip() + "\n"  # a bar that vanished leaves blanks
    if "data" in output:
        data = {form: content for form, content in output["data"].items() if "widget" not in form}
        if "image/png" in data:
            data = {form: content for form, content in data.items() if not form.startswith("image/")}
            data["image/png"] = smaller(output["data"]["image/png"])
        text = {form: without_paths(data[form], folder) for form in data if form.startswith("text/")}
        output |= {"data": data | text, "metadata": {}}
    return output


def without_paths(text: str, folder: Path) -> str:
    """A text in which every file is named as seen from the folder, the repository or home."""
    places = [(folder, ""), (folder.resolve(), ""), (HERE.parent, ""), (Path(sys.prefix), ""), (Path.home(), "~/")]
    for place, name in places:
        text = text.replace(f"{place}{os.sep}", name)
    return text


def smaller(png: str) -> str:
    """A picture, PNG in base64, in at most 64 colours where that makes it smaller."""
    image: Image.Image = Image.open(io.BytesIO(base64.b64decode(png)))
    file = io.BytesIO()
    if image.mode in ("RGB", "RGBA"):
        image = image.convert("RGB").quantize(64, dither=Image.Dither.NONE)
    image.save(file, "PNG", optimize=True)
    found = base64.b64encode(file.getvalue()).decode()
    return min(found, png.strip(), key=len)


def build(source: Path) -> None:
    """Execute one notebook and write it beside its source."""
    started = time.perf_counter()
    notebook = jupytext.read(source, fmt="py:percent")
    with tempfile.TemporaryDirectory() as folder:
        execute(notebook, Path(folder))
        notebook = cleaned(notebook, Path(folder))
    target = source.with_suffix(".ipynb")
    nbformat.validate(notebook)
    nbformat.write(notebook, target)
    print(f"{target.name}: {target.stat().st_size / 1000:.0f} kB, {time.perf_counter() - started:.0f} s", flush=True)


def main() -> None:
    names = sorted(path.stem for path in HERE.glob("[0-9]*.py"))
    parser = argparse.ArgumentParser(description="Executes notebooks and keeps their pictures.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(names)}; all if none is named")
    asked = [Path(name).stem for name in parser.parse_args().names] or names
    for name in asked:
        if name not in names:
            parser.error(f"there is no notebook {name}: choose from {', '.join(names)}")
    for name in asked:
        build(HERE / f"{name}.py")


if __name__ == "__main__":
    main()
