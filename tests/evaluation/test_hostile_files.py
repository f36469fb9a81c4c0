"""Samples and weights from strangers: no code is run, no memory is taken, and what is wrong is one sentence."""

import os
import pickle
import re
import zipfile

import numpy as np
import plain
import pytest
import torch
from hostile import SAFETENSORS, Call, archive, careful, npy, read_or_refused, told
from PIL import Image

from diffusion.data.images import read_image
from diffusion.evaluation.classifier import load_classifier
from diffusion.evaluation.features.base import read_state
from diffusion.evaluation.samples import load_samples
from diffusion.system import array_files

pytestmark = careful


NPZ = {
    "pickled objects": [("arr_0.npy", npy(np.array([Call(os.system, "touch owned")], dtype=object)))],
    "10 TB": [("arr_0.npy", npy(header="{'descr': '|u1', 'fortran_order': False, 'shape': (10000000000000,)}"))],
    "20 GiB": [("arr_0.npy", npy(header="{'descr': '|u1', 'fortran_order': False, 'shape': (20480, 1024, 1024, 1)}"))],
    "a negative side": [("arr_0.npy", npy(header="{'descr': '|u1', 'fortran_order': False, 'shape': (-1, 28, 28)}"))],
    "code as a header": [("arr_0.npy", npy(header="__import__('os').system('touch owned')"))],
    "no array": [("arr_0.npy", b"hello")],
    "nothing": [],
    "another name": [("images.npy", npy(np.zeros((2, 28, 28), np.uint8)))],
    "an absolute name": [("arr_0.npy", npy(np.zeros((2, 28, 28), np.uint8))), ("/owned", b"")],
    "a name with ..": [("arr_0.npy", npy(np.zeros((2, 28, 28), np.uint8))), ("../owned", b"")],
    "other pixels": [("arr_0.npy", npy(np.zeros((2, 28, 28), np.float32)))],
    "another size": [("arr_0.npy", npy(np.zeros((2, 14, 14), np.uint8)))],
    "too many labels": [
        ("arr_0.npy", npy(np.zeros((2, 28, 28), np.uint8))),
        ("arr_1.npy", npy(np.zeros(3, np.int64))),
    ],
    "labels beyond the classes": [
        ("arr_0.npy", npy(np.zeros((2, 28, 28), np.uint8))),
        ("arr_1.npy", npy(np.full(2, 2**60))),
    ],
}


@pytest.mark.parametrize("name", NPZ)
def test_hostile_samples_are_refused(name, mini, tmp_path):
    path = tmp_path / "samples.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for entry, content in NPZ[name]:
            file.writestr(entry, content)
    assert re.search(r"samples=\S+samples\.npz", told(load_samples, str(path), mini))


def test_a_bomb_of_zeros_is_not_unpacked(mini, tmp_path, monkeypatch):
    """A gigabyte of black images, as one megabyte, where at most half of it may be read."""
    monkeypatch.setattr(array_files, "MEMORY_LIMIT", 2**29)
    path = tmp_path / "samples.npz"
    header = npy(header="{'descr': '|u1', 'fortran_order': False, 'shape': (1048576, 32, 32, 1)}")
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file,
        file.open("arr_0.npy", "w", force_zip64=True) as entry,
    ):
        entry.write(header)
        for _ in range(2**10):
            entry.write(bytes(2**20))
    assert "would take 1.0 GiB; at most 0.5" in told(load_samples, str(path), mini)


@pytest.mark.parametrize("code", [b"cbuiltins\nbytearray\n(I1500000000\ntR.", b"cposix\nsystem\n(S'touch owned'\ntR."])
def test_an_old_file_of_weights_runs_no_code(code, tmp_path):
    """Before 1.6 PyTorch wrote five pickles one after the other."""
    path = tmp_path / "weights.pth"
    torch.save({"w": torch.arange(3.0)}, path, _use_new_zipfile_serialization=False)
    assert read_state(str(path))["w"].tolist() == [0, 1, 2]
    start = pickle.dumps(0x1950A86A20F9469CFC6C, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    path.write_bytes(start + code + pickle.dumps([], 2))
    assert "names code that a checkpoint does not need" in told(read_state, str(path))
    huge = path.read_bytes()[: len(start)] + b"\x80\x02\x8a\x06" + (10**13).to_bytes(6, "little") + b"."
    path.write_bytes(huge)
    assert "announces more than it holds" in told(read_state, str(path))


def test_an_archive_is_no_old_file_even_if_its_end_is_hidden(tmp_path):
    """Python looks for the end of an archive, PyTorch at its start."""
    path = tmp_path / "weights.pth"
    archive(path, pickle.dumps(Call(bytearray, 20 * 2**30), 2))
    content = bytearray(path.read_bytes())
    content[4:15] = b"\nN.N.N.N.N."
    path.write_bytes(bytes(content) + b"PK\5\6")
    assert not zipfile.is_zipfile(path)
    assert "it is no whole archive" in told(read_state, str(path))


def test_what_numpy_and_other_programs_write_is_read(tmp_path, mini):
    images = mini.test.images[:3].permute(0, 2, 3, 1).numpy()
    for write in (np.savez, np.savez_compressed):
        write(tmp_path / "samples.npz", arr_0=images, x=np.zeros(1), X=np.zeros(1))
        with zipfile.ZipFile(tmp_path / "samples.npz", "a") as file:
            file.comment = b"by hand"
        assert torch.equal(load_samples(str(tmp_path / "samples.npz"), mini).images, mini.test.images[:3])
    for suffix in ("png", "gif", "tif", "pgm", "bmp"):
        Image.fromarray(images[0, :, :, 0]).save(tmp_path / f"a.{suffix}")
        assert torch.equal(read_image(tmp_path / f"a.{suffix}", None, 1), mini.test.images[0])


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_hostile_safetensors_file_is_no_scorer(name, tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(SAFETENSORS[name])
    assert "file.safetensors" in told(load_classifier, path, torch.device("cpu"))


@pytest.mark.parametrize("kind", ["npz", "pth"])
def test_damaged_files_are_read_or_refused(kind, mini, tmp_path):
    path = tmp_path / f"file.{kind}"
    if kind == "npz":
        np.savez_compressed(path, arr_0=mini.test.images[:20, 0].numpy(), arr_1=mini.test.labels[:20].numpy())
    else:
        torch.save(dict(list(plain.network().state_dict().items())[:3]), path)
    read = {"npz": lambda path: load_samples(str(path), mini), "pth": lambda path: read_state(str(path))}[kind]
    read(path)
    read_or_refused(path, path.read_bytes(), read)
