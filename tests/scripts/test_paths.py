"""Paths and advice as a shell user meets them: folders of any name, data that moved, screens that are closed."""

import json
import os
import random
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image
from test_scripts import FORKING

SMALL = (
    *("model.width=8", "model.groups=4", "model.head_width=8", "training.steps=2", "training.batch_size=4"),
    *("score.n=0", "preview.steps=2", "score.held_out=2", "device=cpu"),
)
FOLDER = (*SMALL, "data=image_folder", "data.image_size=16", "data.test_fraction=0.4")
NAMES = ("été d'hiver", "a&b#c;d!", 'say "hi"', "x(1)[2]{3}", "k=v,w", "2024", "C:\\photos", "it's")
CASES = [  # command → exit code, what its last line holds
    *((["train.py", *FOLDER, f"data.root={name}", f"hydra.run.dir=runs/{name}"], 0, f"runs/{name}") for name in NAMES),
    (["train.py", f"resume=runs/{NAMES[0]}", "training.steps=3"], 0, f"runs/{NAMES[0]}"),
    (["sample.py", f"checkpoint=runs/{NAMES[4]}", "n=2", "sampler.steps=2"], 0, "2 images are in"),
    (["train.py", *FOLDER, "data.root="], 1, "data.root= is empty: give a path"),
    (["train.py", *FOLDER, "data.root=a\nb"], 1, "a path with a line break, a tab or the like cannot be used"),
    (["train.py", *FOLDER, "data.root=~/cats"], 1, "HOME/cats"),
    (["train.py", *FOLDER, "data.root=say", "hi"], 1, "'hi' cannot be read"),
    (["train.py", *FOLDER, "data.root=nowhere,either"], 1, "there is no such file or folder; add -m for a sweep"),
    (["train.py", *FOLDER, "data.root=2024", "hydra.job.chdir=true", "hydra.run.dir=chdir"], 0, "/chdir"),
    (["sample.py", "checkpoint=chdir", "n=2", "sampler.steps=2", "hydra.job.chdir=true"], 0, "2 images are in"),
    # data that moved
    (["train.py", "resume=chdir", "data.root=moved", "training.steps=3"], 0, "/chdir"),
    (["train.py", "resume=chdir", *FOLDER[-3:], "data.root=moved", "training.steps=4"], 0, "/chdir"),
    (["train.py", "resume=chdir", "data.root=other"], 1, "their pixels differ (root mean square"),
    (["train.py", "resume=chdir", "data.root=renamed"], 1, "their classes differ (new are cow; missing are dog)"),
    (["train.py", "resume=chdir", "data.image_size=32"], 1, "(data.image_size is 16)"),
    (["train.py", "resume=chdir", "data.imgsize=8"], 1, "Unknown setting 'data.imgsize': did you mean 'data.image_"),
    (["train.py", "checkpoint=chdir", *SMALL[3:], "data.root=moved", "hydra.run.dir=second"], 0, "/second"),
    (["train.py", "checkpoint=chdir", "model.width=16"], 1, "which brings its own model: leave one of them out"),
    (
        ["evaluate.py", "checkpoint=chdir", "data.root=nowhere"],
        1,
        "data.root=nowhere does not exist: give a folder of images.",
    ),
    (["evaluate.py", "checkpoint=chdir", "data.image_size=32"], 1, "and this model draws 16×16 with 3"),
    (["evaluate.py", "checkpoint=chdir", "data.rooot=x"], 1, "did you mean 'data.root'"),
    (["evaluate.py", "samples=2024", "data.root=2024"], 1, "add data=image_folder"),
    # settings of another option, and of the user's own
    (["train.py", "data.root=2024"], 1, "Unknown setting 'data.root' for these data: add data=image_folder"),
    (["train.py", "ema=power", "ema.decay=0.9"], 1, "Unknown setting 'ema.decay' for the chosen ema: add ema=average"),
    (["sample.py", "checkpoint=chdir", "data.root=x"], 1, "or from task.images="),
    (["sample.py", "checkpoint=chdir", "schedule.steps=3"], 1, "'schedule.steps': it comes from the checkpoint"),
    (["train.py", "data=min", "--config-dir", "mine"], 1, "mnist"),
    (["train.py", "data=my_photo", "--config-dir=mine"], 1, "my_photos"),
    (["train.py", "--config-dir", "mine", "data=my_photos", "data.rot=2"], 1, "did you mean 'data.root'"),
    (["train.py", "data=my_photos", "--config-dir", "mine", *SMALL, "hydra.run.dir=own"], 0, "/own"),
]


def make(folder, seed=0, classes=("cat", "dog")):
    chance = random.Random(seed)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(6):
            Image.frombytes("RGB", (16, 16), chance.randbytes(768)).save(folder / name / f"{i}.png")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    for name in (*NAMES, "moved", "say hi"):
        make(home / name)
    make(home / "other", seed=1)
    make(home / "renamed", classes=("cat", "cow"))
    (home / "mine" / "data").mkdir(parents=True)
    text = "_target_: diffusion.data.datasets.image_folder\nroot: moved\nimage_size: 16\n"
    (home / "mine" / "data" / "my_photos.yaml").write_text(text, encoding="utf-8")
    return home


@pytest.fixture(scope="module")
def answers(home):
    """Exit code and last line of each of the commands, one after the other."""
    cases = [(str(ROOT / script), words) for (script, *words), _, _ in CASES]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HOME": "HOME"}
    subprocess.run(
        [sys.executable, "-c", FORKING], input=json.dumps(cases), cwd=home, text=True, env=environment, check=True
    )
    found = []
    for i in range(len(CASES)):
        text = (home / f"{i}.txt").read_text(encoding="utf-8")
        assert "Traceback" not in text, text
        found.append((int((home / f"{i}.code").read_text()), [line for line in text.splitlines() if line.strip()][-1]))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda i: ascii(" ".join(CASES[i][0])))
def test_paths_and_advice(answers, number):
    _, code, text = CASES[number]
    assert answers[number][0] == code, answers[number]
    assert text in answers[number][1]


@pytest.mark.slow
def test_a_sweep_that_cannot_compose_does_not_ask_for_itself_again(run, tmp_path):
    done = run("train.py", "-m", "seed=1,2", "schedule=cosin", *SMALL, check=False)
    assert done.returncode == 1 and "schedule=cosin: there is no such option" in done.stderr
    assert "missing" not in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("where", ["2>&-", ">&- 2>&-", "2>/dev/full", ">/dev/full 2>/dev/full"])
def test_training_without_a_screen(home, tmp_path, where):
    words = (*FOLDER, f"data.root={home / 'moved'}", "data.memory_limit=0", "hydra.run.dir=run")
    line = f"{sys.executable} {ROOT / 'train.py'} {' '.join(words)} {where}"
    done = subprocess.run(["bash", "-c", line], cwd=tmp_path, check=False)
    assert done.returncode == 0
    log = (tmp_path / "run" / "train.log").read_text(encoding="utf-8")
    assert (tmp_path / "run" / "last.pt").exists() and "Done. The grid" in log
    wrong = subprocess.run(["bash", "-c", f"{line.replace(where, '')} nothing=1 {where}"], cwd=tmp_path, check=False)
    assert wrong.returncode == 1
