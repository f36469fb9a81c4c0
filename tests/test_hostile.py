"""Files from strangers: no code is run, no memory is taken, and what is wrong is one sentence."""

import gzip
import io
import json
import os
import pickle
import re
import resource
import signal
import struct
import warnings
import zipfile
import zlib

import numpy as np
import pytest
import torch
from conftest import compose, saved_run
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf
from PIL import Image
from safetensors.torch import save

from diffusion.config import build, trained
from diffusion.data.datasets import fashion_mnist, image_folder, read_idx
from diffusion.data.images import read_image
from diffusion.evaluation.cache import load_arrays
from diffusion.evaluation.classifier import load_classifier
from diffusion.evaluation.features.base import read_state
from diffusion.evaluation.samples import load_samples
from diffusion.records import checkpoint
from diffusion.system import untrusted
from diffusion.system.errors import UserError
from diffusion.tasks.inpaint import read_mask

pytestmark = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="counts memory as Linux does")
CPU = {"_target_": "diffusion.system.device.Device", "type": "cpu"}
EXAMPLES = 150  # of damaged files of each kind


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The state of a run's checkpoint."""
    return checkpoint.load(saved_run(tmp_path_factory.mktemp("run")) / "last.pt")


@pytest.fixture(autouse=True)
def loot(tmp_path, monkeypatch):
    """The working folder, in which nothing may appear."""
    folder = tmp_path / "loot"
    folder.mkdir()
    monkeypatch.chdir(folder)
    yield folder
    assert not list(folder.iterdir())


def told(read, *arguments, seconds=20, megabytes=700):
    """The sentence with which `read` refuses, in a process of its own that may take so much time and memory."""
    here, there = os.pipe()
    child = os.fork()
    if not child:
        with open(there, "w") as answer, open("/proc/self/statm") as pages:
            torch.set_num_threads(1)  # the threads of the pool did not survive the fork
            signal.alarm(seconds)
            taken = int(pages.read().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (taken + megabytes * 2**20,) * 2)
            try:
                read(*arguments)
                answer.write("it was read")
            except UserError as error:
                answer.write(str(error))
            except BaseException as error:
                answer.write(f"a defect: {error!r}")
            answer.flush()
            os._exit(0)
    os.close(there)
    with open(here) as answer:
        sentence = answer.read()
    assert os.waitpid(child, 0)[1] == 0, f"ended by a signal: {sentence}"
    assert sentence.endswith(".") and "\n" not in sentence and len(sentence) < 800, sentence
    return sentence


class Call:
    """Pickled as a call of a function."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


class Local:
    """A class that is defined in the file."""


def archive(path, data, others=(), compression=zipfile.ZIP_STORED):
    """A file like PyTorch's, with this pickle and these entries."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/version", b"3\n")
        file.writestr("archive/byteorder", b"little")
        for name, content in others:
            file.writestr(name, content)


def tensor_of(numbers, stored):
    """A pickle of {"network": {"w": a tensor of so many floats}}, whose storage says it has `stored`."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", stored) if value == "STORAGE" else None

    file = io.BytesIO()
    rebuild = Call(torch._utils._rebuild_tensor_v2, "STORAGE", 0, (numbers,), (1,), False, {})
    Pickler(file, protocol=2).dump({"network": {"w": rebuild}})
    return file.getvalue()


def added(path, good, name):
    """A whole checkpoint with one entry more."""
    torch.save(good, path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"x")


def two_directories(path, good):
    """One file that is a harmless archive to Python's zipfile, and another one to PyTorch's reader."""
    evil = pickle.dumps(Call(bytearray, 20 * 2**30), 2)
    archives = []
    for content in (evil, pickle.dumps({}, 2).ljust(len(evil), b"x")):
        archive(path, content)
        archives.append(path.read_bytes())
    path.write_bytes(archives[0][:-22] + archives[1])


def nested(depth, leaf=0):
    for _ in range(depth):
        leaf = [leaf]
    return leaf


def with_config(good, **changes):
    return {**good, "config": {**good["config"], **changes}}


HOSTILE = {
    "builtins.open": lambda path, good: archive(path, pickle.dumps(Call(open, "owned", "w"), 2)),
    "os.system": lambda path, good: archive(path, pickle.dumps(Call(os.system, "touch owned"), 2)),
    "os.system by its alias posix": lambda path, good: archive(path, b"cposix\nsystem\n(S'touch owned'\ntR."),
    "torch.load": lambda path, good: archive(path, pickle.dumps(Call(torch.load, "x"), 2)),
    "getattr": lambda path, good: archive(path, b"cbuiltins\ngetattr\n(cos\nsystem\nS'x'\ntR."),
    "eval": lambda path, good: archive(path, pickle.dumps(Call(eval, "open('owned','w')"), 2)),
    "a class of the file": lambda path, good: archive(path, pickle.dumps(Local(), 2)),
    "a bare pickle": lambda path, good: path.write_bytes(pickle.dumps(Call(os.system, "touch owned"))),
    "STACK_GLOBAL": lambda path, good: archive(path, pickle.dumps(Call(os.system, "touch owned"), 4)),
    "a bytearray of 20 GiB": lambda path, good: archive(path, pickle.dumps(Call(bytearray, 20 * 2**30), 2)),
    "a tensor of 10 TB": lambda path, good: archive(
        path, tensor_of(10**13 // 4, 10**13 // 4), [("archive/data/0", bytes(64))]
    ),
    "a tensor beyond its storage": lambda path, good: archive(
        path, tensor_of(10**6, 16), [("archive/data/0", bytes(64))]
    ),
    "a storage beyond its entry": lambda path, good: archive(
        path, tensor_of(10**6, 10**6), [("archive/data/0", bytes(64))]
    ),
    "a bomb of zeros": lambda path, good: archive(
        path, tensor_of(10**7, 10**7), [("archive/data/0", bytes(4 * 10**7))], zipfile.ZIP_DEFLATED
    ),
    "an absolute name": lambda path, good: added(path, good, "/etc/owned"),
    "a name with ..": lambda path, good: added(path, good, "file/../../owned"),
    "a drive in a name": lambda path, good: added(path, good, "C:\\owned"),
    "a name of Windows": lambda path, good: added(path, good, "..\\owned"),
    "a name in capitals": lambda path, good: added(path, good, "file/DATA.PKL"),
    "two directories": two_directories,
    "lists in lists": lambda path, good: torch.save({**good, "extra": nested(200)}, path),
    "a billion laughs": lambda path, good: archive(path, laughs()),
    "a deep config": lambda path, good: torch.save(with_config(good, more=nested(30)), path),
    "a wide config": lambda path, good: torch.save(with_config(good, more=list(range(20_000))), path),
    "the environment": lambda path, good: torch.save(with_config(good, seed="${oc.env:HOME}"), path),
    "a target of the system": lambda path, good: torch.save(
        with_config(good, model={"_target_": "os.system", "command": "touch owned"}), path
    ),
    "a target through our imports": lambda path, good: torch.save(
        with_config(good, model={"_target_": "diffusion.data.datasets.gzip.open", "filename": "owned", "mode": "w"}),
        path,
    ),
    "a target that loads": lambda path, good: torch.save(
        with_config(good, schedule={"_target_": "torch.load", "f": "x"}), path
    ),
    "a huge network": lambda path, good: torch.save(
        with_config(good, model={**good["config"]["model"], "width": 2**22}), path
    ),
    "huge images": lambda path, good: torch.save({**good, "image": {**good["image"], "size": 10**9}}, path),
    "a million classes": lambda path, good: torch.save(
        {**good, "image": {**good["image"], "class_names": ["x"] * 1_000_000}}, path
    ),
    "a class that is a folder above": lambda path, good: torch.save(
        {**good, "image": {**good["image"], "class_names": [*good["image"]["class_names"][:-1], "../../owned"]}}, path
    ),
    "a class that is a folder elsewhere": lambda path, good: torch.save(
        {**good, "image": {**good["image"], "class_names": [*good["image"]["class_names"][:-1], "/etc/owned"]}}, path
    ),
    "a class with a long name": lambda path, good: torch.save(
        {**good, "image": {**good["image"], "class_names": ["x" * 3_000_000] * 250}}, path
    ),
    "long texts": lambda path, good: torch.save(with_config(good, more=["x" * 10**6] * 1000), path),
    "averages of nothing": lambda path, good: torch.save({**good, "ema": {"network": {}}}, path),
    "other weights": lambda path, good: torch.save({**good, "ema": {"network": {"w": torch.zeros(3)}}}, path),
    "one tensor a thousand times": lambda path, good: archive(path, aliased(), [("archive/data/0", bytes(4 * 10**6))]),
    "tuples in tuples": lambda path, good: archive(path, b"\x80\x02)" + b"\x85" * 10**6 + b"."),
    "ten million lists": lambda path, good: archive(path, b"\x80\x02(" + b"]" * 10**7 + b"l."),
    "an average without weights": lambda path, good: torch.save({**good, "ema": {}}, path),
    "a weight that is a number": lambda path, good: torch.save({**good, "network": {"w": 3}}, path),
    "a step that is a text": lambda path, good: torch.save({**good, "step": "x"}, path),
    "a group that is a text": lambda path, good: torch.save(with_config(good, guidance="abc"), path),
    "a loss that is a list": lambda path, good: torch.save(with_config(good, loss=[1]), path),
    "a table of 17 GiB": lambda path, good: torch.save(
        {
            **with_config(good, model={"_target_": "diffusion.networks.dit.DiT", "width": 256, "patch": 1}),
            "image": {**good["image"], "size": 1024},
        },
        path,
    ),
    "steps without end": lambda path, good: torch.save(
        with_config(good, sampler={**good["config"]["sampler"], "steps": 10**12}), path
    ),
    "nothing": lambda path, good: path.write_bytes(b""),
    "text": lambda path, good: path.write_text("hello\n" * 100),
    "a truncated file": lambda path, good: cut(path, good),
    "no dictionary": lambda path, good: torch.save([1, 2, 3], path),
}


def aliased():
    """A pickle of {"network": ten thousand names of views of one tensor, each over the whole of it}."""

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            return ("storage", torch.FloatStorage, "0", "cpu", 10**6) if value == "STORAGE" else None

    file = io.BytesIO()
    views = {
        f"w{k}": Call(torch._utils._rebuild_tensor_v2, "STORAGE", 0, (1000, 10**6 - k), (0, 1), False, {})
        for k in range(1000)
    }
    Pickler(file, protocol=2).dump({"network": views})
    return file.getvalue()


def laughs():
    """A pickle of lists that hold the list before ten times: ten to the power of thirty values."""
    value = ["ha"]
    for _ in range(30):
        value = [value] * 10
    return pickle.dumps({"extra": value}, 2)


def cut(path, good):
    torch.save(good, path)
    path.write_bytes(path.read_bytes()[:-1000])


def use(path):
    """All that sample.py does with a checkpoint before it draws."""
    return trained.load_image_model(checkpoint.load(path), build.build(CPU, "device"))


REASONS = {
    "it names code that a checkpoint does not need": (
        *("builtins.open", "os.system", "os.system by its alias posix", "torch.load", "getattr", "eval"),
        *("a class of the file", "STACK_GLOBAL", "a bytearray of 20 GiB"),
    ),
    "it is no whole archive": ("a bare pickle", "nothing", "text", "a truncated file", "two directories"),
    "PyTorch cannot read it": (*("a tensor of 10 TB", "a tensor beyond its storage", "a storage beyond its entry"),),
    "its entries announce more than it holds": ("a bomb of zeros",),
    "leads out of the archive": ("an absolute name", "a name with ..", "a drive in a name", "a name of Windows"),
    "it has two entries of one name": ("a name in capitals",),
    "it is nested deeper, or holds more, than any checkpoint": (
        "lists in lists",
        "a billion laughs",
        "a million classes",
    ),
    "its config is nested deeper, or holds more, than any": ("a deep config", "a wide config"),
    "its config holds longer texts than any": ("long texts",),
    "its config holds an interpolation": ("the environment",),
    "model._target_=os.system is not allowed": ("a target of the system",),
    "model._target_=diffusion.data.datasets.gzip.open is not allowed": ("a target through our imports",),
    "schedule._target_=torch.load is not allowed": ("a target that loads",),
    "model.width=4194304 must be at most": ("a huge network",),
    "its images have the size 1000000000": ("huge images",),
    "it has a class of the name": (
        *("a class that is a folder above", "a class that is a folder elsewhere", "a class with a long name"),
    ),
    "do not belong to the model that its config describes": (
        *("other weights", "averages of nothing", "a table of 17 GiB"),
    ),
    "its tensors announce more than the file holds": ("one tensor a thousand times",),
    "it holds more than any checkpoint": ("tuples in tuples", "ten million lists"),
    "its ema.network holds no weights": ("an average without weights",),
    "its network holds no weights": ("a weight that is a number",),
    "its step is no number of steps": ("a step that is a text",),
    "its config chooses no guidance": ("a group that is a text",),
    "its config chooses no loss": ("a loss that is a list",),
    "steps=1000000000000 must be from 1 to 100,000": ("steps without end",),
    "no checkpoint of this project: give one": ("no dictionary",),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_checkpoint_is_refused_for_what_it_is(name, good, tmp_path):
    path = tmp_path / "file.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of two entries with one name
        HOSTILE[name](path, good)
    (reason,) = (reason for reason, names in REASONS.items() if name in names)
    assert reason in told(use, path)


def test_what_both_readers_find_is_one_archive(good, tmp_path):
    """The archive with two directories is what it is said to be; and a whole checkpoint is no such archive."""
    two_directories(tmp_path / "file.pt", good)
    with zipfile.ZipFile(tmp_path / "file.pt") as file:
        assert b"bytearray" not in file.read("archive/data.pkl")
    assert b"bytearray" in torch._C.PyTorchFileReader(str(tmp_path / "file.pt")).get_record("data.pkl")
    for old in (True, False):  # without and with a directory of 64 bits
        torch.save(good, tmp_path / "whole.pt")
        if old:
            with zipfile.ZipFile(tmp_path / "whole.pt", "a") as file:
                file.writestr("whole/more", b"x")
        untrusted.check_end(tmp_path / "whole.pt")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("step", 0),  # nothing is wrong
        *(("optimizer", value) for value in ({}, {"state": {}, "param_groups": []}, [1])),
        *(("sums", torch.zeros(3)), ("seconds", "x"), ("skipped", "x"), ("best", "x"), ("ema", {"network": {}})),
        *(("config", "without a seed"), ("config", "a text for training")),
    ],
)
def test_a_checkpoint_of_parts_that_do_not_fit_is_not_gone_on_with(name, value, good, tmp_path):
    state = {**good, name: value}
    if name == "config":
        state["config"] = {k: v for k, v in good["config"].items() if k != "seed"}
        if value != "without a seed":
            state["config"] = {**good["config"], "training": "x"}
    torch.save(state, tmp_path / "file.pt")

    def go_on():
        state = checkpoint.load(tmp_path / "file.pt")
        config = build.resumed_config(state["config"], OmegaConf.create(compose("train")), [])
        build.build_trainer(config, tmp_path / "run", state)
        raise UserError("It is whole.")

    reason = {"step": "It is whole", "config": "the config of that checkpoint holds no"}.get(name, "is not whole")
    assert reason in told(go_on)


def test_a_checkpoint_makes_no_folder_outside_the_working_one(good, tmp_path):
    for root in (f"{tmp_path}/elsewhere", "../elsewhere"):
        config = {**good["config"], "data": {"_target_": "diffusion.data.datasets.mnist", "root": root}}
        assert "elsewhere, which the checkpoint names, is no folder here" in told(build.data_of, config)
        taken = told(build.starting_config, config, OmegaConf.create(compose("train", "checkpoint=x")), [])
        assert "elsewhere, which the checkpoint names, is no folder here" in taken
    assert not (tmp_path / "elsewhere").exists()


def test_averages_that_are_not_whole_are_refused(good):
    state = {**good, "ema": {**good["ema"], "averages": {0.0: {}, "x": {}}}}
    assert "ema_width=0.1" in told(trained.trained_weights, state, True, 0.1)


def safetensors_with(header, data=b""):
    text = json.dumps(header).encode() if isinstance(header, dict) else header
    return struct.pack("<Q", len(text)) + text + data


SAFETENSORS = {
    "a header of 10 TB": struct.pack("<Q", 10**13) + b"{}",
    "a tensor of 10 TB": safetensors_with(
        {"w": {"dtype": "F32", "shape": [10**13 // 4], "data_offsets": [0, 10**13]}}, bytes(64)
    ),
    "no metadata": save({"w": torch.zeros(3)}),
    "metadata in metadata": safetensors_with(
        {"__metadata__": {"simple_diffusion": "[" * 100_000, "record": "[" * 100_000}}
    ),
    "other metadata": save({"w": torch.zeros(3)}, {"simple_diffusion": '{"format": 1}', "record": "{}"}),
    "not JSON": safetensors_with(b"hello"),
}


@pytest.mark.parametrize("name", SAFETENSORS)
def test_a_hostile_safetensors_file_is_refused(name, tmp_path):
    path = tmp_path / "file.safetensors"
    path.write_bytes(SAFETENSORS[name])
    assert "file.safetensors" in told(checkpoint.load, path)
    assert "file.safetensors" in told(load_classifier, path, torch.device("cpu"))


def npy(array=None, header=None, data=b""):
    """An .npy file, with a header of our own if one is given."""
    file = io.BytesIO()
    if header is None:
        np.save(file, array, allow_pickle=True)
        return file.getvalue()
    text = f"{header}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


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
    monkeypatch.setattr(untrusted, "MEMORY_LIMIT", 2**29)
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


@pytest.mark.parametrize("side", [50_000, 12_000])
def test_a_picture_of_many_pixels_is_not_unpacked(side, tmp_path):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    path, lines = tmp_path / "bomb.png", zlib.compressobj(1)
    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = b"".join(lines.compress(bytes(side + 1)) for _ in range(side if side < 20_000 else 1)) + lines.flush()
    content = (chunk(b"IHDR", head), chunk(b"IDAT", data), chunk(b"IEND", b""))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(content))
    assert "bomb.png cannot be read" in told(read_image, path, 32, 3, megabytes=50)


def test_no_other_program_is_started_for_a_picture(tmp_path, monkeypatch):
    """Pillow gives PostScript to Ghostscript, whatever the file is called."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path}/loot/owned\n")
    (tmp_path / "bin" / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    (tmp_path / "a.png").write_bytes(
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    )
    assert "a.png cannot be read" in told(read_image, tmp_path / "a.png", 8, 1)
    assert "task.mask" in told(read_mask, str(tmp_path / "a.png"), 8)


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


def idx(shape, data=b"", kind=8):
    return bytes([0, 0, kind, len(shape)]) + b"".join(struct.pack(">I", side) for side in shape) + data


@pytest.mark.parametrize(
    "content",
    [
        idx([2**32 - 1] * 3),
        idx([60_000, 28, 28]),
        idx([1, 2, 2], bytes(5)),
        idx([1, 2, 2], bytes(4), kind=13),
        idx([4], bytes(4)),
        b"",
        b"\0\0\x08",
    ],
)
def test_hostile_idx_files_are_refused(content, tmp_path):
    path = tmp_path / "images.gz"
    path.write_bytes(gzip.compress(content))
    with pytest.raises(UserError, match=r"images\.gz (is|announces)"):
        read_idx(path, 3)


def test_a_bomb_in_an_idx_file_is_not_unpacked(tmp_path):
    path = tmp_path / "images.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        file.write(idx([10, 28, 28]))
        for _ in range(2**9):
            file.write(bytes(2**20))
    with pytest.raises(UserError, match="holds more or fewer"):
        read_idx(path, 3)


# --------------------------------------------------------------------------------------- damaged at random


def damage(content, data):
    """A file with some bytes changed, cut out, put in, or cut off."""
    content = bytearray(content)
    for _ in range(data.draw(st.integers(1, 6))):
        place = data.draw(st.integers(0, max(0, len(content) - 1)))
        how = data.draw(st.sampled_from(["flip", "set", "delete", "insert", "cut", "huge"]))
        if how == "flip" and content:
            content[place] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "set" and content:
            content[place] = data.draw(st.integers(0, 255))
        elif how == "delete":
            del content[place : place + data.draw(st.integers(1, 50))]
        elif how == "insert":
            content[place:place] = data.draw(st.binary(min_size=1, max_size=20))
        elif how == "cut":
            del content[place:]
        elif how == "huge":
            content[place : place + 4] = b"\xff\xff\xff\x7f"
    return bytes(content)


def readers(mini, tmp_path, good):
    """Of each kind: the name of a file, its content, and what reads it."""
    images, labels = mini.test.images[:20, 0].numpy(), mini.test.labels[:20].numpy()
    picture, arrays, raw = io.BytesIO(), io.BytesIO(), io.BytesIO()
    Image.fromarray(images[0]).save(picture, "png")
    np.savez_compressed(arrays, arr_0=images, arr_1=labels)
    torch.save({name: good["network"][name] for name in list(good["network"])[:3]}, raw)
    state = io.BytesIO()
    torch.save({**good, "optimizer": {}}, state)
    weights = save({"w": torch.randn(4, 4)}, {"simple_diffusion": "{}"})
    return {
        "png": ("image.png", picture.getvalue(), lambda path: read_image(path, 28, 1)),
        "npz": ("samples.npz", arrays.getvalue(), lambda path: load_samples(str(path), mini)),
        "idx": ("images.gz", gzip.compress(idx(images.shape, images.tobytes())), lambda path: read_idx(path, 3)),
        "pt": ("last.pt", state.getvalue(), use),
        "pth": ("weights.pth", raw.getvalue(), lambda path: read_state(str(path))),
        "safetensors": ("weights.safetensors", weights, checkpoint.load),
    }


@pytest.mark.parametrize("kind", ["png", "npz", "idx", "pt", "pth", "safetensors"])
def test_damaged_files_are_read_or_refused(kind, mini, tmp_path, good):
    name, content, read = readers(mini, tmp_path, good)[kind]
    path, refused = tmp_path / name, []

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None)
    @given(st.data())
    def try_one(data):
        path.write_bytes(damage(content, data))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read(path)
            except UserError as error:
                refused.append(str(error))

    path.write_bytes(content)
    if kind != "safetensors":
        read(path)
    try_one()
    assert len(refused) > EXAMPLES / 5 and all(name in sentence for sentence in refused)


def test_damaged_data_sets_are_refused(tmp_path, mini):
    """A folder of images with one that is damaged, and Fashion-MNIST of no images."""
    (tmp_path / "images").mkdir()
    for number in range(4):
        Image.fromarray(mini.test.images[number, 0].numpy()).save(tmp_path / "images" / f"{number}.png")
    (tmp_path / "images" / "2.png").write_bytes((tmp_path / "images" / "2.png").read_bytes()[:60])
    with pytest.raises(UserError, match=r"2\.png cannot be read"):
        image_folder(str(tmp_path / "images"), 28, 1)
    for name in ("train-images-idx3", "t10k-images-idx3", "train-labels-idx1", "t10k-labels-idx1"):
        shape = [0, 28, 28] if "images" in name else [0]
        (tmp_path / f"{name}-ubyte.gz").write_bytes(gzip.compress(idx(shape)))
    with pytest.raises(UserError):
        fashion_mnist(str(tmp_path))


def test_a_cached_file_that_was_damaged_is_an_error_that_is_caught(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.arange(1000))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 255
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(ValueError, match="its array x"):
        load_arrays(tmp_path / "a.npz")
