"""The command python -m diffusion.export, from another folder."""

import os
import sys

import pytest
from config_helpers import trained_run
from conftest import ROOT, ended


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return trained_run(tmp_path_factory.mktemp("run"), **{"training.steps": 2})


def command(tmp_path, *arguments, check=True):
    done = ended([sys.executable, "-m", "diffusion.export", *arguments], tmp_path, check, env={"PYTHONPATH": str(ROOT)})
    return done.stdout + done.stderr


def test_a_file_and_what_is_said_of_it(trained, tmp_path):
    text = command(tmp_path, f"checkpoint={trained}", "to=safetensors", "path=new/mine.safetensors")
    size = os.path.getsize(tmp_path / "new" / "mine.safetensors") / 1e6
    last = text.splitlines()[-1]
    assert last == f"new/mine.safetensors holds the model, to=safetensors with weights=fp32: {size:.2f} MB."
    (log,) = tmp_path.rglob("export.log")
    assert last in log.read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize(("to", "name"), [("diffusers", "diffusers"), ("onnx", "model.onnx")])
def test_without_a_path_it_lies_in_the_folder_of_this_command(to, name, trained, tmp_path):
    text = command(tmp_path, f"checkpoint={trained}", f"to={to}", "hydra.run.dir=here")
    assert (tmp_path / "here" / name).exists() and f"here/{name} holds the model" in text.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["checkpoint=none", "to=onnx"], "checkpoint=none: there is no such file or folder"),
        (["to=onnx"], "checkpoint must be given"),
        (["checkpoint=latest", "to=onnx"], "there is no run under outputs/ yet"),
        (["checkpoint=x"], "to=null must be one of onnx, diffusers, safetensors, page."),
        (["checkpoint=x", "to=page", "path=x.htm"], "path=x.htm must end in .html for to=page, for example x.html."),
        (["checkpoint=x", "to=onnx", "weigths=int8"], "Unknown setting 'weigths': did you mean 'weights'?"),
        (["checkpoint=x", "to=onnx", "model.width=8"], "it comes from the checkpoint"),
    ],
)
def test_what_is_wrong_is_one_sentence(arguments, message, tmp_path):
    text = command(tmp_path, *arguments, check=False)
    assert message in text.splitlines()[-1] and "Traceback" not in text


def test_help(tmp_path):
    text = command(tmp_path, "--help")
    assert "Simple Diffusion, python -m diffusion.export" in text and "weights: null" in text
    assert "objective" not in text and "train.py" not in text  # nothing of what a checkpoint settles
