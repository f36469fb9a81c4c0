"""Data: values, order, files that are damaged, and folders of any images."""

import gzip

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.data import datasets
from diffusion.data.datasets import fashion_mnist, fashion_mnist_mini, image_folder
from diffusion.data.images import (
    ImageFiles,
    Images,
    batches,
    crop_images,
    decode,
    encode,
    pad_images,
)
from diffusion.system.errors import UserError

CPU = torch.device("cpu")


def test_values_go_round():
    levels = torch.arange(256, dtype=torch.uint8)
    x = encode(levels)
    assert float(x.min()) == -1 and float(x.max()) == 1
    assert torch.equal(decode(x), levels)
    assert decode(torch.tensor([-1.7, 1.2])).tolist() == [0, 255]
    assert decode(torch.tensor([0.5 / 127.5 - 1 + 1e-4])).tolist() == [1]  # rounded, not floored


def test_padding_is_undone_by_cropping():
    images = torch.randint(0, 256, (3, 1, 28, 28), dtype=torch.uint8)
    assert pad_images(images, 2).shape == (3, 1, 32, 32)
    assert torch.equal(crop_images(pad_images(images, 2), 2), images)
    assert torch.equal(crop_images(pad_images(images, 0), 0), images)


def test_the_embedded_set_is_balanced():
    mini = fashion_mnist_mini()
    assert mini.train.images.shape == (6000, 1, 28, 28) and mini.test.images.shape == (1000, 1, 28, 28)
    assert torch.bincount(mini.train.labels).tolist() == [600] * 10
    assert torch.bincount(mini.test.labels).tolist() == [100] * 10
    assert (mini.channels, mini.image_size, len(mini.class_names)) == (1, (28, 28), 10)


@pytest.mark.full_data
def test_the_embedded_set_is_real():
    full, mini = fashion_mnist("nowhere"), fashion_mnist_mini()
    for part, whole in ((mini.train, full.train), (mini.test, full.test)):
        known = {image.tobytes(): int(label) for image, label in zip(whole.images.numpy(), whole.labels, strict=True)}
        assert all(
            known[image.tobytes()] == int(label) for image, label in zip(part.images.numpy(), part.labels, strict=True)
        )


@pytest.mark.full_data
def test_the_full_set_is_whole():
    full = fashion_mnist("nowhere")
    assert len(full.train) == 60_000 and len(full.test) == 10_000
    assert torch.bincount(full.train.labels).tolist() == [6000] * 10
    rms = encode(full.train.images).square().mean().sqrt()
    assert abs(float(rms) - 0.826) < 0.001  # known of Fashion-MNIST in [−1, 1]


def numbered(n):
    """Images that hold their own number."""
    return Images(torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1), torch.arange(n))


def drawn(split, steps, seed=0, first=0, size=4):
    stream = batches(split, size, seed, first, CPU, workers=0)
    return [next(stream)[1] for _ in range(steps)]


def test_every_epoch_holds_every_image_once_also_across_batches():
    order = torch.cat(drawn(numbered(10), 5))  # 20 images: two epochs, the third batch reaches over the end
    assert sorted(order[:10].tolist()) == list(range(10)) == sorted(order[10:].tolist())
    assert order[:10].tolist() != order[10:].tolist()


def test_the_order_depends_on_seed_and_step_alone():
    whole, late = drawn(numbered(10), 8), drawn(numbered(10), 3, first=5)
    assert all(torch.equal(a, b) for a, b in zip(whole[5:], late, strict=True))
    assert not torch.equal(torch.cat(whole), torch.cat(drawn(numbered(10), 8, seed=1)))


def test_a_batch_may_be_larger_than_the_data():
    assert torch.bincount(drawn(numbered(3), 1, size=9)[0]).tolist() == [3, 3, 3]


def write_images(folder, sizes=((40, 30), (30, 50)), classes=("a", "b"), mode="RGB"):
    for name in classes:
        (folder / name).mkdir(parents=True)
        for i in range(4):
            width, height = sizes[i % len(sizes)]
            shade = np.full((height, width, 3), 60 * i, np.uint8)
            Image.fromarray(shade).convert(mode).save(folder / name / f"{i}.png")


def test_a_folder_of_any_images(tmp_path):
    write_images(tmp_path)
    colour = image_folder(str(tmp_path), 16)
    assert colour.class_names == ["a", "b"] and colour.channels == 3 and colour.image_size == (16, 16)
    assert len(colour.train) + len(colour.test) == 8
    assert image_folder(str(tmp_path), 16, channels=1).channels == 1
    assert image_folder(str(tmp_path), 16, labels=False).class_names == []


def test_large_folders_are_read_from_their_files_in_the_same_order(tmp_path):
    write_images(tmp_path)
    memory = image_folder(str(tmp_path), 16)
    files = image_folder(str(tmp_path), 16, memory_limit=1e-9)
    assert isinstance(files.train, ImageFiles)
    for workers in (0, 1):
        a = batches(memory.train, 3, 0, 2, CPU)
        b = batches(files.train, 3, 0, 2, CPU, workers=workers)
        for _ in range(4):
            (x, y), (u, v) = next(a), next(b)
            assert torch.equal(x, u) and torch.equal(y, v)


def test_a_folder_with_its_own_split(tmp_path):
    write_images(tmp_path / "train")
    write_images(tmp_path / "test")
    split = image_folder(str(tmp_path), 8)
    assert len(split.train) == len(split.test) == 8


def test_a_folder_named_train_alone_is_split(tmp_path):
    write_images(tmp_path / "train")
    alone = image_folder(str(tmp_path), 8)
    assert alone.class_names == ["a", "b"] and len(alone.train) + len(alone.test) == 8


def test_bad_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        image_folder(str(tmp_path / "missing"), 16)
    with pytest.raises(UserError, match="holds no images"):
        image_folder(str(tmp_path), 16)
    (tmp_path / "a.png").write_bytes(b"no image")
    (tmp_path / "b.png").write_bytes(b"no image")
    with pytest.raises(UserError, match=r"[ab]\.png cannot be read"):
        image_folder(str(tmp_path), 16)


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    path.write_bytes(gzip.compress(header + array.tobytes()))


def write_set(folder):
    for prefix, n in (("train", 20), ("t10k", 10)):
        write_idx(folder / f"{prefix}-images-idx3-ubyte.gz", np.zeros((n, 28, 28), np.uint8))
        write_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", np.arange(n, dtype=np.uint8) % 10)


def test_ones_own_folder_comes_first(tmp_path):
    write_set(tmp_path)
    assert len(fashion_mnist(str(tmp_path)).train) == 20


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "missing", "announces more", "labels"])
def test_damaged_files_are_named(tmp_path, damage):
    write_set(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[: len(whole) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("<html>not found</html>")
    elif damage == "missing":
        path.unlink()
    elif damage == "announces more":
        path.write_bytes(gzip.compress(gzip.decompress(whole)[:-5]))
    else:
        write_idx(tmp_path / "train-labels-idx1-ubyte.gz", np.zeros(19, np.uint8))
    with pytest.raises(UserError, match="train-images-idx3-ubyte.gz"):
        fashion_mnist(str(tmp_path))


def test_without_data_or_network_the_way_out_is_told(tmp_path, monkeypatch):
    import torchvision

    def offline(*args, **kwargs):
        raise RuntimeError("Error downloading")

    monkeypatch.setattr(torchvision.datasets, "MNIST", offline)
    with pytest.raises(UserError, match="data=fashion_mnist_mini"):
        datasets.mnist(str(tmp_path))
    monkeypatch.setattr(torchvision.datasets, "CIFAR10", offline)
    with pytest.raises(UserError, match="data=fashion_mnist_mini"):
        datasets.cifar10(str(tmp_path))
