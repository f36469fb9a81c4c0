"""Images and data sets from strangers: no memory is taken, and what is wrong is one sentence."""

import gzip
import struct
import zipfile
import zlib

import numpy as np
import pytest
from hostile import Call, careful, idx, npy, read_or_refused, told
from PIL import Image

from diffusion.data.datasets import arrays, fashion_mnist, image_folder, read_idx
from diffusion.data.images import read_image
from diffusion.system.errors import UserError

pytestmark = careful


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


def test_no_other_program_is_started_for_a_picture(postscript):
    assert "a.png cannot be read" in told(read_image, postscript, 8, 1)


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


@pytest.mark.parametrize("kind", ["png", "idx"])
def test_damaged_files_are_read_or_refused(kind, mini, tmp_path):
    images, path = mini.test.images[:20, 0].numpy(), tmp_path / f"images.{kind}"
    if kind == "png":
        Image.fromarray(images[0]).save(path)
    else:
        path.write_bytes(gzip.compress(idx(images.shape, images.tobytes())))
    read = {"png": lambda path: read_image(path, 28, 1), "idx": lambda path: read_idx(path, 3)}[kind]
    read(path)
    read_or_refused(path, path.read_bytes(), read)


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


HUGE = "{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000000), }"
ARRAYS = {
    "a pickle": (npy(np.array([Call(open, "owned", "w")] * 4, object)), "pickled objects"),
    "10^12 bytes announced": (npy(header=HUGE, data=bytes(64)), "it announces"),
    "a negative side": (npy(header=HUGE.replace("1000000, 1", "-1, 1"), data=bytes(64)), "it announces"),
    "code in its head": (npy(header="{'descr': open('owned', 'w')}"), "cannot be read as .npz or .npy"),
    "a head of 4 GB": (b"\x93NUMPY\x02\x00\xff\xff\xff\xff{", "cannot be read as .npz or .npy"),
    "fields": (npy(np.zeros(4, [("a", "u1"), ("b", "f4")])), "of the kind"),
    "nothing": (b"", "cannot be read as .npz or .npy"),
    "a number": (npy(np.uint8(3)), "a single number"),
}


@pytest.mark.parametrize("content", ARRAYS)
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_hostile_arrays_are_refused(kind, content, tmp_path):
    path, (data, sentence) = tmp_path / f"a.{kind}", ARRAYS[content]
    if kind == "npz":  # whose members are read one by one
        sentence = sentence.replace("cannot be read as .npz or .npy", "cannot be read")
    path.write_bytes(data)
    if kind == "npz":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("x.npy", data)
    said = told(arrays, str(path), megabytes=100)
    assert "a.np" in said and sentence in said


def test_hostile_labels_are_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez(path, x=np.full((4, 8, 8), 9, np.uint8), y=np.array([Call(open, "owned", "w")] * 4, object))
    assert "its array y cannot be read (it holds pickled objects)" in told(arrays, str(path))


def test_a_bomb_of_arrays_is_not_unpacked(tmp_path):
    """Ten thousand times as large in memory as the file is; what is not asked for is not unpacked either."""
    head = "{'descr': '|u1', 'fortran_order': False, 'shape': (8000000, 32, 32), }"
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as file:
        info = zipfile.ZipInfo("x.npy")
        info.compress_type = zipfile.ZIP_DEFLATED
        with file.open(info, "w", force_zip64=True) as entry:
            entry.write(npy(header=head))
            for _ in range(2**6):
                entry.write(bytes(2**20))
        file.writestr("images.npy", npy(np.full((4, 8, 8), 9, np.uint8)))
    assert "it announces" in told(lambda path: arrays(path, keys=["x"]), str(tmp_path / "a.npz"), megabytes=200)
    assert len(arrays(str(tmp_path / "a.npz")).train) == 3
    with open(tmp_path / "b.npy", "wb") as file:
        file.write(npy(header=head))
        file.truncate(8_000_000 * 1024)
    assert "would take 7.6 GiB" in told(arrays, str(tmp_path / "b.npy"), megabytes=200)


@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_damaged_arrays_are_read_or_refused(kind, mini, tmp_path):
    path, images = tmp_path / f"a.{kind}", mini.test.images[:20, 0].numpy()
    np.savez_compressed(path, x=images, y=mini.test.labels[:20].numpy()) if kind == "npz" else np.save(path, images)
    arrays(str(path))
    read_or_refused(path, path.read_bytes(), lambda path: arrays(str(path)))
