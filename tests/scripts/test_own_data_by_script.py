"""Arrays, tables and augmentation as a shell user meets them: train, sample, evaluate, resume, and what goes wrong."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT
from test_scripts import FORKING

SMALL = (
    *("model.width=8", "model.groups=4", "model.head_width=8", "training.steps=2", "training.batch_size=4"),
    *("score.n=0", "preview.steps=2", "score.held_out=2", "device=cpu"),
)
ARRAYS = (*SMALL, "data=arrays")
TABLES = (*SMALL, "data=huggingface")
ODD = "k=v, it's/a b.npz"
SCORED = ("features=pca", "device=cpu")
CASES = [  # command → exit code, what its last line holds
    (["train.py", *ARRAYS, f"data.train={ODD}", "hydra.run.dir=run", "data.flip=true", "data.shift=1"], 0, "/run"),
    (["sample.py", "checkpoint=run", "n=2", "sampler.steps=2"], 0, "2 images are in"),
    (["sample.py", "checkpoint=run", "task=inpaint", "n=2", "sampler.steps=2"], 0, "images are in"),
    (["evaluate.py", "checkpoint=run", "n=12", "sampler.steps=1", *SCORED], 0, "The report is"),
    (["evaluate.py", "samples=s.npz", "data=arrays", f"data.train={ODD}", *SCORED], 0, "The report is"),
    (["train.py", "resume=run", "training.steps=3"], 0, "/run"),
    (["train.py", "resume=run", "training.steps=4", "data.flip=true"], 0, "/run"),
    (["train.py", "resume=run", "training.steps=5", "data.train=moved.npz"], 0, "/run"),
    (["train.py", "resume=run", "data.shift=0"], 1, "(data.shift is 1)"),
    (["train.py", "resume=run", "data.train=other.npz"], 1, "their pixels differ"),
    (["train.py", "resume=run", "data.root=x"], 1, "Unknown setting 'data.root'"),
    (["train.py", *ARRAYS, f"data.train={ODD}", "data.class_names=[cat,dog,bird]", "hydra.run.dir=words"], 0, "/words"),
    (["train.py", *ARRAYS, "data.train=floats.npy"], 1, "by data.range=[-1,1] for example"),
    (["train.py", *ARRAYS, "data.train=floats.npy", "data.range=[-1,1]", "hydra.run.dir=floats"], 0, "/floats"),
    (["train.py", *ARRAYS, "data.train=floats.npy", "data.range=1"], 1, "data.range=1 has the wrong type"),
    (["train.py", *ARRAYS], 1, "data.train must be given"),
    (["train.py", *ARRAYS, "data.train=a.npz,b.npz"], 1, "no such file or folder; add -m"),
    (["train.py", "data.train=a.npz"], 1, "Unknown setting 'data.train' for these data: add data=arrays"),
    (["train.py", "data.name=a"], 1, "Unknown setting 'data.name' for these data: add data=huggingface"),
    (["evaluate.py", "samples=s.npz", "data.train=s.npz"], 1, "add data=arrays"),
    (["train.py", *SMALL, "data.shift=28"], 1, "data.shift=28 must be less than the 28×28 pixels of the images"),
    (["train.py", *SMALL, "data.flip=1"], 1, "data.flip=1 has the wrong type: it must be true or false"),
]
WITH_TABLES = [
    (["train.py", *TABLES, "data.name=my table", "hydra.run.dir=table", "data.flip=true"], 0, "/table"),
    (["evaluate.py", "checkpoint=table", "n=12", "sampler.steps=1", *SCORED], 0, "The report is"),
    (["train.py", "resume=table", "training.steps=3", "data.name=moved"], 0, "/table"),
    (
        ["train.py", *TABLES, "data.name=my table", "data.image_column=image"],
        1,
        "choose from pixels (List), label (Value)",
    ),
    (["train.py", *TABLES, "data.name=some/one"], 1, "nor was it fetched before HF_HUB_OFFLINE was set"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), dtype=np.uint8)
    labels = np.arange(30) % 3
    (home / ODD).parent.mkdir()
    for name in (ODD, "moved.npz"):
        np.savez(home / name, x_train=pixels, y_train=labels, x_test=pixels[::2], y_test=labels[::2])
    np.savez(home / "other.npz", x_train=pixels // 2, y_train=labels, x_test=pixels[::2], y_test=labels[::2])
    np.savez(home / "s.npz", arr_0=pixels[:12], arr_1=labels[:12])
    np.save(home / "floats.npy", (pixels / 127.5 - 1).astype(np.float32))
    try:
        import datasets
    except ImportError:
        return home
    content = {"pixels": pixels.tolist(), "label": labels.tolist()}
    features = {"pixels": datasets.List(datasets.List(datasets.List(datasets.Value("uint8"))))}
    table = datasets.Dataset.from_dict(
        content, features=datasets.Features({**features, "label": datasets.Value("int64")})
    )
    for name in ("my table", "moved"):
        table.save_to_disk(home / name)
    CASES.extend(WITH_TABLES)
    return home


@pytest.mark.slow
def test_commands(home):
    """Each of them, one after the other: its exit code, and its last line."""
    cases = [(str(ROOT / script), words) for (script, *words), _, _ in CASES]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(home / "hf")}
    subprocess.run(
        [sys.executable, "-c", FORKING], input=json.dumps(cases), cwd=home, text=True, env=environment, check=True
    )
    for i, (words, code, expected) in enumerate(CASES):
        text = (home / f"{i}.txt").read_text(encoding="utf-8")
        assert "Traceback" not in text, text
        last = [line for line in text.splitlines() if line.strip()][-1]
        assert int((home / f"{i}.code").read_text(encoding="utf-8")) == code and expected in last, (words, text)


def test_arrays_are_trained_on_by_the_command_line(run, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (30, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "a b.npz", images=pixels, labels=np.arange(30) % 3)
    done = run("train.py", *ARRAYS, "data.train=a b.npz", "data.flip=true", "hydra.run.dir=run")
    assert "data.train=a b.npz: 30 images from images, labels from labels." in done.stderr + done.stdout
    assert (tmp_path / "run" / "last.pt").exists()
