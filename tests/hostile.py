"""What strangers may send: files that call code, announce too much, or were damaged; and how a reader is watched."""

import io
import json
import os
import pickle
import resource
import signal
import struct
import warnings
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from diffusion.system.errors import UserError

EXAMPLES = 150  # of damaged files of each kind
# For the tests that read such files: see the fixture `loot`.
careful = [
    pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="counts memory as Linux does"),
    pytest.mark.usefixtures("loot"),
]


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


def archive(path, data, others=(), compression=zipfile.ZIP_STORED):
    """A file like PyTorch's, with this pickle and these entries."""
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("archive/data.pkl", data)
        file.writestr("archive/version", b"3\n")
        file.writestr("archive/byteorder", b"little")
        for name, content in others:
            file.writestr(name, content)


def two_directories(path):
    """One file that is a harmless archive to Python's zipfile, and another one to PyTorch's reader."""
    evil = pickle.dumps(Call(bytearray, 20 * 2**30), 2)
    archives = []
    for content in (evil, pickle.dumps({}, 2).ljust(len(evil), b"x")):
        archive(path, content)
        archives.append(path.read_bytes())
    path.write_bytes(archives[0][:-22] + archives[1])


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


def npy(array=None, header=None, data=b""):
    """An .npy file, with a header of our own if one is given."""
    file = io.BytesIO()
    if header is None:
        np.save(file, array, allow_pickle=True)
        return file.getvalue()
    text = f"{header}\n".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def idx(shape, data=b"", kind=8):
    return bytes([0, 0, kind, len(shape)]) + b"".join(struct.pack(">I", side) for side in shape) + data


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


def read_or_refused(path, content, read):
    """Damaged copies of a file: each is read, or refused by a sentence that names it."""
    refused = []

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

    try_one()
    assert len(refused) > EXAMPLES / 5 and all(path.name in sentence for sentence in refused)
