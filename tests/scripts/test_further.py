"""A trained model taken further by the command line, and what a user reads on the way."""

import json
import os
import re
import shlex
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_scripts import FORKING

from diffusion.records import checkpoint

SMALL = ("training.steps=2", "training.batch_size=4", "score.n=0", "preview.steps=2", "score.held_out=2", "device=cpu")
NETWORK = ("model.width=8", "model.groups=4", "model.head_width=8")
OWN = ("data=image_folder", "data.image_size=16")
OTHERS = (*OWN, "data.root=others", "data.image_size=24", *SMALL, "hydra.run.dir=second")
FIRST = ["train.py", *OWN, "data.root=pets", *NETWORK, *SMALL, "hydra.run.dir=first"]
SECOND = ["train.py", "checkpoint=first", *OTHERS, "training.freeze=[down.*]"]
CASES = [  # command → exit code, what its text holds
    (["train.py", "checkpoint=first", *OTHERS, "training.freeze=[down.*]"], 0, "second holds this very run, finished"),
    (["train.py", "checkpoint=first", *OTHERS, "data.root=pets"], 1, "another training than this command asks for"),
    (["train.py", "resume=first", "data.root=more", "training.steps=3"], 1, "22 to train with instead of 14"),
    (
        ["train.py", "checkpoint=first", *SMALL, "training.freeze=[dwn.*]"],
        1,
        "training.freeze=dwn.* names no parameter",
    ),
    (["train.py", "resume=second", "training.freeze=[up.*]"], 1, "would change what this run is trained with"),
    (["train.py", "resume=second", "training.steps=3"], 0, "Resuming at step 2 of 3"),
    (["sample.py", "checkpoint=second", "classes=hat", "n=2", "sampler.steps=1"], 0, "2 images are in"),
]


def pictures(folder, classes, size):
    noise = torch.Generator().manual_seed(size)
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(8):
            pixels = torch.randint(256, (3 * size * size,), generator=noise, dtype=torch.uint8)
            Image.frombytes("RGB", (size, size), bytes(pixels.tolist())).save(folder / name / f"{i}.png")


def told(home, commands):
    """Exit code and text of each of some commands, one after the other."""
    cases = [(str(ROOT / script), words) for script, *words in commands]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-c", FORKING], input=json.dumps(cases), cwd=home, text=True, env=environment, check=True
    )
    return [
        (int((home / f"{i}.code").read_text()), (home / f"{i}.txt").read_text(encoding="utf-8"))
        for i in range(len(cases))
    ]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    home = tmp_path_factory.mktemp("home")
    pictures(home / "pets", ["cat", "dog"], 16)
    pictures(home / "others", ["dog", "hat"], 24)
    pictures(home / "more", ["cat", "dog", "cow"], 16)
    return home


@pytest.fixture(scope="module")
def two(home):
    """What the two trainings say that the others need."""
    return told(home, [FIRST, SECOND])


@pytest.fixture(scope="module")
def answers(two, home):
    return told(home, [words for words, _, _ in CASES])


@pytest.mark.slow
def test_other_images_and_a_part_that_is_frozen(two, home):
    assert [code for code, _ in two] == [0, 0], two
    text = two[1][1]
    assert "first brings its own model, schedule, objective, guidance" in text
    assert 'Classes: 1 kept (dog), 1 new (hat), which start as "no class", 1 left out (cat)' in text
    assert "their size is 24 instead of 16" in text and "Frozen by training.freeze" in text
    first, second = (checkpoint.load(home / name / "last.pt") for name in ("first", "second"))
    assert second["config"]["training"]["freeze"] == ["down.*"]
    for name, value in first["ema"]["network"].items():
        if name != "conditioning.label.weight":
            assert torch.equal(value, second["network"][name]) == name.startswith("down."), name


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)), ids=lambda i: " ".join(CASES[i][0][:3]))
def test_a_model_is_taken_further(answers, number):
    _, code, text = CASES[number]
    assert answers[number][0] == code and text in answers[number][1], answers[number][1]
    assert "Traceback" not in answers[number][1]


@pytest.mark.slow
def test_the_commands_that_are_offered_can_be_pasted(answers, home):
    further, anew = re.findall(r"python (\S*train\.py .*?)(?:  –|  \(|$)", answers[2][1], re.MULTILINE)
    commands = [
        ["train.py", *shlex.split(line)[1:], *SMALL, f"hydra.run.dir={i}"] for i, line in enumerate((further, anew))
    ]
    (one, kept), (two, _) = told(home, [commands[0], [*commands[1], *NETWORK]])
    assert one == two == 0 and "Classes: 2 kept (cat, dog), 1 new (cow)" in kept
