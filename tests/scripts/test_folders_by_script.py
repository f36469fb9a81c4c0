"""Folders as people have them, through the real command line: what is learned, what is said, and what is drawn."""

import numpy as np
import pytest
import torch
from PIL import Image

TINY = [
    *("data=image_folder", "data.image_size=8", "model.width=8", "model.groups=4", "model.head_width=8"),
    *("training.steps=1", "training.batch_size=8", "score.n=0", "score.held_out=4", "training.preview_every=0"),
]


def put(folder, classes, n=3):
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(n):
            Image.new("RGB", (8, 8), (80 * i, 90, 120)).save(folder / name / f"{i}.png")


def names(run):
    return torch.load(run / "last.pt", weights_only=True)["image"]["class_names"]


def test_a_folder_of_splits_and_numbers(run, tmp_path):
    classes = ["1", "2", "10", "11"]
    put(tmp_path / "photos" / "Training", classes)
    put(tmp_path / "photos" / "testing", classes[:2])
    put(tmp_path / "photos" / "valid", classes[:1])
    Image.new("RGB", (8, 8)).save(tmp_path / "photos" / "Training" / "2" / "._0.png")
    done = run("train.py", *TINY, "data.root=photos", "hydra.run.dir=run")
    assert "12 training images from Training/, 6 test images from testing/; not used: valid/ (3)." in done.stderr
    assert "data.root=photos: passed over 1 hidden (Training/2/._0.png)." in done.stderr
    assert names(tmp_path / "run") == classes


@pytest.mark.slow
def test_classes_are_drawn_by_name_and_the_order_of_a_run_stays(run, tmp_path):
    classes = ["0", "1", "2", "10", "11", "1e3", "true", "a, b"]
    put(tmp_path / "photos", classes)
    run("train.py", *TINY, "data.root=photos", "hydra.run.dir=run")
    order = names(tmp_path / "run")
    for asked, wanted in (("2", ["2"]), ("[1e3,true,11]", ["1e3", "true", "11"]), ("a, b", ["a, b"])):
        run("sample.py", "checkpoint=run", f"classes={asked}", "n=3", "sampler.steps=1", "hydra.run.dir=out")
        drawn = np.load(tmp_path / "out" / "samples.npz")["arr_1"].tolist()
        assert drawn == [order.index(wanted[i % len(wanted)]) for i in range(3)]
    # A run of before, whose classes were in the order of their letters, keeps it; it had no hashes of its labels yet.
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    image = {name: value for name, value in state["image"].items() if name not in ("labels", "test")}
    state["image"] = {**image, "class_names": sorted(order)}
    torch.save(state, tmp_path / "run" / "last.pt")
    run("train.py", "resume=run", "training.steps=2")
    assert names(tmp_path / "run") == sorted(order) != order
    done = run("sample.py", "checkpoint=run", "classes=hat", check=False)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "classes=hat: there is no such class; choose from 0, 1, 10" in done.stderr


@pytest.mark.slow
def test_a_working_folder_does_not_learn_its_own_pictures(run, tmp_path):
    put(tmp_path / "cats", ["tabby"])
    put(tmp_path / "dogs", ["collie"])
    half = "data.test_fraction=0.5"
    run("train.py", *TINY, "data.root=.", half, "hydra.run.dir=outputs/first")
    run("sample.py", "checkpoint=outputs/first", "n=2", "sampler.steps=1", "png=true", "hydra.run.dir=outputs/drawn")
    done = run("train.py", *TINY, "data.root=.", half, "hydra.run.dir=outputs/second")
    assert "2 of this program's runs (outputs/drawn, outputs/first)" in done.stderr
    assert "3 + 3 images" in done.stderr and "no images in" not in done.stderr
    assert names(tmp_path / "outputs" / "second") == ["cats", "dogs"]
    options = ("data=image_folder", "data.image_size=8", "data.root=.", half, "features=pca")
    done = run("evaluate.py", "samples=outputs/drawn/images", *options)
    assert "Scored samples=outputs/drawn/images." in done.stderr
