"""Tasks from the command line, each with its picture."""

import json

import numpy as np
import pytest
from config_helpers import trained_run
from PIL import Image


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("run"), **{"training.steps": 2})


@pytest.mark.parametrize(
    ("task", "images", "rows", "columns"),
    [
        (["inpaint", "task.repeats=0", "task.variations=2"], 6, 4, 3),
        (["image_to_image", "classes=[bag]", "task.strengths=[0.5,1]"], 6, 3, 3),
        pytest.param(["interpolate", "task.columns=4"], 12, 3, 4, marks=pytest.mark.slow),
        (["interpolate", "task.between=classes", "classes=[bag,0]", "task.columns=4"], 12, 3, 4),
        (["invert", "task.steps=[2,4]"], 3, 4, 3),
    ],
)
def test_each_task_writes_a_picture(task, images, rows, columns, trained, run, tmp_path):
    done = run(
        "sample.py", f"checkpoint={trained}", f"task={task[0]}", *task[1:],
        "n=3", *["sampler.steps=3"] * (task[0] != "invert"), "device=cpu", "png=true", "hydra.run.dir=out",
    )  # fmt: skip
    out = tmp_path / "out"
    with np.load(out / "samples.npz") as file:
        assert file["arr_0"].shape == (images, 28, 28, 1) and file["arr_1"].shape == (images,)
    with Image.open(out / "grid.png") as picture:
        # cells of 28 pixels and lines of 1 between them, twice as large; captions above and on the left
        assert picture.height in (2 * (29 * rows + 1), 2 * (29 * rows + 1) + 18)
        assert 2 * (29 * columns + 1) <= picture.width < 2 * (29 * columns + 1) + 100
    assert len(list((out / "images").rglob("*.png"))) == images
    if task[0] == "invert":
        numbers = json.loads((out / "task.json").read_text())
        assert len(numbers["error"]) == 2 and "Round trip, root mean square error" in done.stdout + done.stderr
