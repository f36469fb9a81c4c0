"""Images of any height and width through the real command line: trained on, drawn, scored, refused in a sentence."""

import json
import os
import random
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_scripts import FORKING

SMALL = "training.steps=2 training.batch_size=4 preview.steps=2 score.held_out=2 device=cpu".split()
UNET = [*SMALL, "model.width=8", "model.groups=4", "model.head_width=8"]
OTHERS = {
    "unet_tiny": UNET,
    "unet_simple": [*SMALL, "model.width=4", "model.time_width=8"],
    "dit_small": [*SMALL, "model.width=16", "model.depth=1", "model.heads=2"],
}
TASKS = {
    "inpaint": ["task.mask=centre", "task.repeats=0", "task.variations=2", "sampler.steps=2"],
    "image_to_image": ["task.strengths=[0.5,1]", "sampler.steps=2"],
    "interpolate": ["task.columns=3", "sampler.steps=2"],
    "invert": ["task.steps=[2,3]"],
    "generate": ["sampler.steps=2", "gif=true", "png=true"],
}


def paint(folder, height, width, n=6, classes=("dark", "light")):
    """Images of noise in two classes that anyone can tell apart."""
    chance = random.Random(0)
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            noise = np.frombuffer(chance.randbytes(height * width * 3), np.uint8).reshape(height, width, 3)
            Image.fromarray(noise // 2 + np.uint8(120 * k)).save(folder / name / f"{i}.png")


def data(root, size, *more):
    return ["data=image_folder", f"data.root={root}", f"data.image_size={size}", *more]


def commands(home, *cases):
    """What each command said, one after the other in `home`; exit codes are 0 but where a text is expected.

    Args:
        cases: (words, the text that a refusal must hold, or None).
    """
    told = [(str(ROOT / words[0]), list(words[1:])) for words, _ in cases]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "TQDM_DISABLE": "1"}
    subprocess.run(
        [sys.executable, "-c", FORKING], input=json.dumps(told), cwd=home, text=True, env=environment, check=True
    )
    said = []
    for i, (words, refusal) in enumerate(cases):
        text, code = (home / f"{i}.txt").read_text(encoding="utf-8"), int((home / f"{i}.code").read_text())
        assert code == (refusal is not None) and "Traceback" not in text, (words, text)
        lines = text.strip().splitlines()
        assert refusal is None or (refusal in lines[-1] and lines[-1].endswith(".")), (words, text)
        said.append(text)
    return said


def drawn(folder):
    with np.load(folder / "samples.npz") as file:
        return file["arr_0"].shape


@pytest.mark.slow
def test_a_folder_at_its_own_size_is_padded_for_the_network_and_drawn(tmp_path):
    paint(tmp_path / "photos", 30, 22)
    paint(tmp_path / "others", 22, 30)
    run = ["train.py", *data("photos", "null", "data.padding=auto"), *UNET, "score.n=0", "hydra.run.dir=run"]
    said = commands(
        tmp_path,
        (run, None),
        (["sample.py", "checkpoint=run", "n=3", "sampler.steps=2", "hydra.run.dir=out"], None),
        (["train.py", *data(".", "null"), *UNET], "data.image_size=null takes images of one size, but "),
    )
    assert "data.padding=auto is 1: the network sees 32×24 pixels." in said[0]
    assert drawn(tmp_path / "out") == (3, 30, 22, 3)
    with Image.open(tmp_path / "out" / "grid.png") as picture:
        assert picture.width == 2 * (2 * 23 + 1) and picture.height >= 2 * (2 * 31 + 1)  # a column for each class
    state = torch.load(tmp_path / "run" / "last.pt", weights_only=True)
    assert state["image"]["size"] == [30, 22] and state["image"]["padding"] == state["config"]["data"]["padding"] == 1


@pytest.mark.slow
@pytest.mark.parametrize(("size", "channels"), [((48, 32), 3), ((32, 48), 1)])
def test_tall_and_wide_images_in_grey_and_colour_are_trained_on_drawn_and_scored(size, channels, tmp_path):
    paint(tmp_path / "photos", 60, 60, n=20)
    said = commands(
        tmp_path,
        (
            ["train.py", *data("photos", f"[{size[0]},{size[1]}]", f"data.channels={channels}"), *UNET, "score.n=8",
             "features.epochs=1", "hydra.run.dir=run"],
            None,
        ),
        (["evaluate.py", "checkpoint=run", "n=8", "sampler.steps=2", "likelihood=2", "likelihood_evaluations=3",
          "features=pca", "hydra.run.dir=scored"], None),
        (["evaluate.py", "samples=scored/samples.npz", *data("photos", f"[{size[0]},{size[1]}]",
          f"data.channels={channels}"), "features=pca", "hydra.run.dir=again"], None),
        (["evaluate.py", "samples=scored/samples.npz", *data("photos", 30)], "pixels with 3 channels, but the images of"
         if channels == 3 else "pixels with 1 channels, but the images of"),
    )  # fmt: skip
    assert "A quick estimate of" in said[0] and "Bits per dimension of 2 test images" in said[1]
    assert drawn(tmp_path / "scored") == (8, *size, channels)
    scores = [json.loads((tmp_path / name / "metrics.json").read_text()) for name in ("scored", "again")]
    assert scores[0]["fid"] == pytest.approx(scores[1]["fid"])


@pytest.mark.slow
@pytest.mark.parametrize("network", OTHERS)
def test_every_network_takes_what_auto_pads_to_and_does_every_task(network, tmp_path):
    paint(tmp_path / "photos", 26, 18)
    more = ("data.padding=auto", "data.fit=pad", "data.test_fraction=0.4")
    told = [*data("photos", "[30,22]", *more), f"model={network}", *OTHERS[network]]
    run = ["train.py", *told, "score.n=0", "hydra.run.dir=run"]
    cases = [(run, None), ([*run, "training.steps=3"], None)]  # the same command again, for longer
    for task, words in TASKS.items():
        call = ["sample.py", "checkpoint=run", f"task={task}", "n=2", *words, f"hydra.run.dir={task}"]
        cases.append((call, None))
    said = commands(tmp_path, *cases)
    assert "the network sees 32×24 pixels." in said[0] and "Resuming at step 2 of 3." in said[1]
    assert all(drawn(tmp_path / task)[1:] == (30, 22, 3) for task in TASKS)


@pytest.mark.slow
def test_every_task_on_small_tall_images(tmp_path):
    paint(tmp_path / "photos", 24, 16)
    told = [*data("photos", "[24,16]", "data.test_fraction=0.4"), *UNET, "score.n=0", "hydra.run.dir=run"]
    cases = [(["train.py", *told], None)]
    for task, words in TASKS.items():
        call = ["sample.py", "checkpoint=run", f"task={task}", "n=2", *words, f"hydra.run.dir={task}"]
        cases.append((call, None))
    Image.new("L", (24, 16), 255).save(tmp_path / "mask.png")
    wrong = ["sample.py", "checkpoint=run", "task=inpaint", "task.mask=mask.png", "n=2"]
    commands(tmp_path, *cases, (wrong, "mask.png has 16×24 pixels; it must have 24×16."))
    assert all(drawn(tmp_path / task)[1:] == (24, 16, 3) for task in TASKS)
    assert len(list((tmp_path / "generate" / "images").rglob("*.png"))) == 2


@pytest.mark.slow
def test_large_colour_images_are_trained_on_drawn_and_scored(tmp_path):
    """128×128: two steps, a grid, scores by a classifier trained on them and by principal components."""
    paint(tmp_path / "photos", 128, 128, n=40)
    said = commands(
        tmp_path,
        (["train.py", *data("photos", 128), *UNET, "score.n=16", "hydra.run.dir=run"], None),
        (["evaluate.py", "checkpoint=run", "n=8", "sampler.steps=2", "features=pca", "hydra.run.dir=scored"], None),
    )
    assert "Training a scoring classifier" in said[0] and "A quick estimate of" in said[0]
    assert drawn(tmp_path / "scored") == (8, 128, 128, 3)
    assert (tmp_path / "run" / "grid.png").exists() and (tmp_path / "scored" / "neighbours.png").exists()
