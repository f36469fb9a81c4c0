"""The kernel of the page that draws: the bytes are those of its text, and it computes what NumPy and PyTorch do."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from diffusion.export.page import PARTS

wasmtime = pytest.importorskip("wasmtime", reason="the kernel is tested where wasmtime is installed (.[test])")


class Kernel:
    """The kernel in wasmtime, with a memory of 4 MB."""

    def __init__(self):
        self.store = wasmtime.Store()
        module = wasmtime.Module(self.store.engine, (PARTS / "kernel.wasm").read_bytes())
        self.exports = wasmtime.Instance(self.store, module, []).exports(self.store)
        self.memory = self.exports["memory"]
        self.memory.grow(self.store, 63)
        self.top = 64

    def put(self, values):
        values = np.ascontiguousarray(values)
        address = self.room(values.size)
        self.memory.write(self.store, values.tobytes(), address)
        return address

    def room(self, count):
        address, self.top = self.top, self.top + (4 * count + 15) // 16 * 16
        return address

    def get(self, address, *shape):
        data = self.memory.read(self.store, address, address + 4 * int(np.prod(shape)))
        return np.frombuffer(bytes(data), np.float32).reshape(shape)

    def call(self, name, *arguments):
        self.exports[name](self.store, *arguments)


@pytest.fixture
def kernel():
    return Kernel()


@pytest.fixture
def numbers():
    return np.random.default_rng(0)


def test_the_bytes_are_those_of_the_text():
    assert (PARTS / "kernel.wasm").read_bytes() == bytes(
        wasmtime.wat2wasm((PARTS / "kernel.wat").read_text(encoding="utf-8"))
    )


@pytest.mark.parametrize(
    ("inner", "outer", "step"), [(5, 8, 1), (4, 12, 1), (12, 21, 2), (3, 16, 2)]
)  # one block of eight channels, blocks that overlap, and whole ones
def test_a_convolution(kernel, numbers, inner, outer, step):
    height, width = 6, 7
    x = numbers.normal(size=(inner, height, width)).astype(np.float32)
    weight = numbers.normal(size=(outer, inner, 3, 3)).astype(np.float32)
    bias = numbers.normal(size=outer).astype(np.float32)
    expected = F.conv2d(torch.tensor(x)[None], torch.tensor(weight), torch.tensor(bias), stride=step, padding=1)[
        0
    ].numpy()
    bordered = np.pad(x, ((0, 0), (1, 1), (1, 1))).transpose(1, 2, 0)
    terms, starts = (
        weight.transpose(0, 2, 3, 1).reshape(outer, -1),
        [min(8 * b, outer - 8) for b in range(-(-outer // 8))],
    )
    packed = np.stack([terms[start : start + 8].T for start in starts])
    biases = np.stack([bias[start : start + 8] for start in starts])
    row = 4 * inner * (width + 2)
    offsets = [(row * i + 4 * inner * j) * step for i in range(expected.shape[1]) for j in range(expected.shape[2])]
    pixels = -(-len(offsets) // 4) * 4
    offsets += offsets[-1:] * (pixels - len(offsets))
    at, places = kernel.put(bordered), kernel.put(np.array(offsets, np.int32))
    weights, biases, out = kernel.put(packed), kernel.put(biases), kernel.room(pixels * outer)
    kernel.call("convolve", at, places, pixels, 3, 3 * inner, row, weights, biases, len(starts), out, outer)
    found = kernel.get(out, pixels, outer)[: expected[0].size].T.reshape(expected.shape)
    assert np.abs(found - expected).max() < 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("channels", [4, 6, 24])
def test_moments(kernel, numbers, channels):
    x, centre = (
        numbers.normal(3, 2, (35, channels)).astype(np.float32),
        numbers.normal(size=channels).astype(np.float32),
    )
    sums, squares = kernel.room(channels), kernel.room(channels)
    kernel.call("moments", kernel.put(x), 35, channels, kernel.put(centre), sums, squares)
    away = x.astype(np.float64) - centre
    assert np.allclose(kernel.get(sums, channels), away.sum(0), rtol=1e-5)
    assert np.allclose(kernel.get(squares, channels), (away**2).sum(0), rtol=1e-5)


@pytest.mark.parametrize("channels", [4, 7, 16])
def test_normalise(kernel, numbers, channels):
    x = np.concatenate([numbers.normal(0, 3, (20, channels)), [[-90.0] * channels, [90.0] * channels]]).astype(
        np.float32
    )
    scale, shift = numbers.normal(1, 0.1, (2, channels)).astype(np.float32)
    at, scales, shifts, out = kernel.put(x), kernel.put(scale), kernel.put(shift), kernel.room(x.size)
    affine = x.astype(np.float64) * scale + shift
    for silu, expected in ((0, affine), (1, affine / (1 + np.exp(-affine)))):
        kernel.call("normalise", at, len(x), channels, scales, shifts, silu, out)
        assert np.allclose(kernel.get(out, *x.shape), expected, rtol=1e-5, atol=1e-5)


def test_exponentials(kernel):
    x = np.linspace(-86, 87, 1000, dtype=np.float32)
    at = kernel.put(2 * x)
    kernel.call("exponentials", at, len(x), 0.5)
    assert np.allclose(kernel.get(at, len(x)), np.exp(x.astype(np.float64)), rtol=1e-6, atol=0)


def test_exponentials_have_no_overflow_and_no_nan(kernel):
    at = kernel.put(np.array([-1000, 1000, 0, -0.0], np.float32))
    kernel.call("exponentials", at, 4, 1.0)
    small, large, *ones = kernel.get(at, 4)
    assert 0 <= small < 1e-37 and 1e38 < large < np.inf and ones == [1, 1]
