"""The notebooks as a reader finds them: executed, whole, small; and that they run in an empty folder, offline."""

import json
import os
import re
import sys

import pytest
from conftest import ROOT, ended

SOURCES = sorted((ROOT / "notebooks").glob("[0-9]*.py"))
EXECUTED = [source.with_suffix(".ipynb") for source in SOURCES]
LARGEST = 300_000  # bytes of a notebook, so that GitHub shows it quickly
PATH = re.compile(r"(?<![\w.~/])/(tmp|home|root|work|usr|var|opt|mnt|private|Users)\b|\b[A-Z]:\\")
SECONDS = 180  # of one core, for all notebooks at small sizes together
OFFLINE = """
import runpy, socket, sys
def refuse(*_): raise OSError("a notebook must not need the network")
socket.socket.connect = socket.getaddrinfo = refuse
runpy.run_path(sys.argv[1], run_name="__main__")
"""


def cells_of(text):
    """(kind, source) of every cell of a file in percent format."""
    for part in re.split(r"^# %%", text, flags=re.MULTILINE)[1:]:
        head, _, body = part.partition("\n")
        lines, kind = body.strip().splitlines(), "markdown" if "[markdown]" in head else "code"
        yield kind, "\n".join(re.sub("^# ?", "", line) for line in lines) if kind == "markdown" else "\n".join(lines)


def code_lines(text):
    """Lines of the code cells that hold more than a comment."""
    code = "\n".join(source for kind, source in cells_of(text) if kind == "code")
    return [line for line in code.splitlines() if line.strip() and not line.strip().startswith("#")]


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def code_cells(path):
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == "code"]


def outputs(path):
    return [output for cell in code_cells(path) for output in cell["outputs"]]


def texts(output):
    """All that can be read in an output."""
    found = [output.get("text", "")] + [text for form, text in output.get("data", {}).items() if "image/" not in form]
    return ["".join(text) if isinstance(text, list) else str(text) for text in found]


def trains_into(text, **sizes):
    """The folders of a notebook's runs, with sizes in the place of those in its cell of sizes."""
    cell = next(source for kind, source in cells_of(text) if kind == "code" and "SMALL = " in source)
    for name, value in sizes.items():
        cell, count = re.subn(f"^{name} = .*$", f"{name} = {value}", cell, flags=re.MULTILINE)
        assert count == 1, name
    names = {}
    exec(cell, names)
    return [eval(place, names) for place in re.findall(r"diffusion\.train\(\w+, (.+)\)$", text, re.MULTILINE)]


def test_cells_are_told_apart():
    text = '"""Head."""\n\n# %% [markdown]\n# # One\n#\n# two\n\n# %% tags=["parameters"]\nx = 1  # three\n\n# four\n'
    assert list(cells_of(text)) == [("markdown", "# One\n\ntwo"), ("code", "x = 1  # three\n\n# four")]
    assert code_lines(text) == ["x = 1  # three"]


def test_paths_are_found():
    assert all(PATH.search(text) for text in ("/tmp/x.png", "in '/home/me'", r"C:\Users", "file:/root"))
    assert not any(PATH.search(text) for text in ("σ/root", "outputs/train/a", "and/or", "~/home", "1/tmp", "1/var"))


def test_every_notebook_is_explained():
    page = (ROOT / "notebooks" / "README.md").read_text(encoding="utf-8")
    assert SOURCES and all(f"({path.name})" in page for path in EXECUTED)


def test_from_scratch_is_short():
    assert len(code_lines((ROOT / "notebooks" / "0_from_scratch.py").read_text(encoding="utf-8"))) <= 150


@pytest.mark.parametrize("source", [each for each in SOURCES if "diffusion.train(" in each.read_text("utf-8")])
def test_other_sizes_are_other_runs(source):
    """A quick try, the whole and a longer one after it, in one folder, do not go on with each other's runs."""
    text = source.read_text(encoding="utf-8")
    runs = [
        run
        for sizes in ({"SMALL": True}, {"SMALL": False}, {"SMALL": False, "width": 48}, {"SMALL": False, "images": 7})
        for run in trains_into(text, **sizes)
    ]
    assert len(set(runs)) == len(runs) == 4 * text.count("diffusion.train(")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
class TestNotebook:
    def test_it_is_made_of_its_source(self, source):
        made = [(cell["cell_type"], "".join(cell["source"])) for cell in read(source.with_suffix(".ipynb"))["cells"]]
        assert made == list(cells_of(source.read_text(encoding="utf-8"))), f"python notebooks/build.py {source.stem}"

    def test_its_sizes_stand_in_one_cell(self, source):
        cells = code_cells(source.with_suffix(".ipynb"))
        sizes = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", [])]
        assert len(sizes) == 1 and "SMALL" in "".join(sizes[0]["source"])

    def test_it_was_executed_in_order_without_an_error(self, source):
        cells = code_cells(source.with_suffix(".ipynb"))
        assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
        found = outputs(source.with_suffix(".ipynb"))
        assert not [output for output in found if output["output_type"] == "error"]
        assert not [text for output in found for text in texts(output) if "Warning" in text]

    def test_it_says_nothing_of_the_machine_or_the_minute(self, source):
        notebook = read(source.with_suffix(".ipynb"))
        assert notebook["metadata"]["kernelspec"]["name"] == "python3" and "widgets" not in notebook["metadata"]
        assert not any("execution" in cell["metadata"] for cell in notebook["cells"])
        for output in outputs(source.with_suffix(".ipynb")):
            assert not any("widget" in form for form in output.get("data", {}))
            assert not [text for text in texts(output) if PATH.search(text)]

    def test_there_is_a_picture_at_least_every_third_code_cell(self, source):
        shown = [
            any("image/png" in output.get("data", {}) for output in cell["outputs"])
            for cell in code_cells(source.with_suffix(".ipynb"))
        ]
        assert any(shown) and all(any(shown[i : i + 3]) for i in range(len(shown) - 2)), shown

    def test_it_is_small(self, source):
        assert source.with_suffix(".ipynb").stat().st_size < LARGEST


@pytest.mark.slow
def test_all_run_in_an_empty_folder_without_a_network(tmp_path):
    """The sources, at small sizes, as a script; their seconds are those of the processor, however busy it is."""

    def seconds():
        return os.times().children_user + os.times().children_system

    before = seconds()
    for source in SOURCES:
        (tmp_path / source.stem).mkdir()
        env = {"SMALL": "1", "MPLBACKEND": "Agg", "PYTHONPATH": str(ROOT)}
        ended([sys.executable, "-c", OFFLINE, str(source)], tmp_path / source.stem, timeout=600, env=env)
    assert seconds() - before < SECONDS
