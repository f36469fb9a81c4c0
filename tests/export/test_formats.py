"""Which form holds what, said in one sentence where it does not."""

from pathlib import Path

import pytest
from conftest import same
from models import SMALL, untrained
from safetensors import SafetensorError

from diffusion.export import formats
from diffusion.records import checkpoint
from diffusion.system.errors import UserError


@pytest.fixture(scope="module")
def model():
    return untrained(*SMALL)


def test_the_usual_weights():
    assert [formats.chosen(to, None)[1] for to in formats.FORMATS] == ["fp32", "fp32", "fp32", "int8"]
    assert formats.chosen("onnx", "int8")[1] == "int8"


def test_the_path_is_looked_at_before_there_is_a_model(tmp_path):
    with pytest.raises(UserError, match=r"path=x\.htm must end in \.html for to=page, for example x\.html\."):
        formats.chosen("page", None, Path("x.htm"))
    with pytest.raises(UserError, match=r"path=\. must end in \.html for to=page, for example model\.html\."):
        formats.chosen("page", None, Path())
    (tmp_path / "a.html").mkdir()
    with pytest.raises(UserError, match="is a folder: give the name of a file"):
        formats.chosen("page", None, tmp_path / "a.html")
    assert formats.chosen("diffusers", None, Path("any.name"))[1] == "fp32"


@pytest.mark.parametrize(
    ("path", "to", "weights", "message"),
    [
        ("a.onnx", None, None, "to=null must be one of onnx, diffusers, safetensors, page"),
        ("a.onnx", "tflite", None, "to=tflite must be one of onnx"),
        ("a.onnx", "onnx", "int4", "weights=int4 must be one of fp32, fp16, int8"),
        ("a", "diffusers", "int8", "weights=int8 cannot be used with to=diffusers.* choose to=onnx or to=page"),
        ("a.bin", "onnx", None, r"must end in \.onnx for to=onnx, for example .*a\.onnx"),
        ("", "safetensors", None, r"must end in \.safetensors"),
        ("a.pdf", "page", None, r"must end in \.html for to=page, for example .*a\.html"),
    ],
)
def test_what_is_wrong_is_one_sentence(model, tmp_path, path, to, weights, message):
    with pytest.raises(UserError, match=message):
        model.export(tmp_path / path, to=to, weights=weights)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("place", ["file/a.safetensors", "a\0.safetensors", "a" * 300 + ".safetensors"])
def test_a_place_that_cannot_be_written_is_one_sentence_too(model, tmp_path, place):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="could not be written"):
        model.export(tmp_path / place, to="safetensors")


def test_a_full_disk_is_one_sentence(model, tmp_path, monkeypatch):
    """The library for safetensors has an error of its own, which is no `OSError`."""

    def full(*_):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(UserError, match=r"could not be written \(I/O error: No space left"):
        model.export(tmp_path / "a.safetensors", to="safetensors")
    assert not list(tmp_path.iterdir())


def test_safetensors_are_what_save_writes(model, tmp_path):
    path = model.export(tmp_path / "a.safetensors", to="safetensors")
    model.save(tmp_path / "b.safetensors")
    assert same(checkpoint.load(path), checkpoint.load(tmp_path / "b.safetensors"))
    assert same(checkpoint.load(path)["network"], dict(model.denoiser.network.state_dict()))
    assert formats.size_of(path) == path.stat().st_size and formats.size_of(tmp_path) == 2 * path.stat().st_size
