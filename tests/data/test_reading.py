"""Folders as they are read: damaged files, several frames, the bar, and what is kept for the next start."""

import logging
import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from diffusion.data import reading
from diffusion.data.datasets import image_folder
from diffusion.data.images import ImageFiles, batches
from diffusion.system.errors import UserError


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """The working folder, where caches go, and a log that is read."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def log(caplog):
    caplog.set_level(logging.INFO, "diffusion")
    return caplog


@pytest.fixture
def many(monkeypatch):
    """Four images are many."""
    monkeypatch.setattr(reading, "MANY", 3)


def write(folder, n=6, size=8):
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        Image.new("L", (size, size), 20 * i).save(folder / f"{i}.png")
    return folder


def cut(path):
    """Leave the head alone."""
    path.write_bytes(path.read_bytes()[:44])


def shades(data):
    images = [split.select(torch.arange(len(split)))[0] for split in (data.train, data.test)]
    return sorted(torch.cat(images)[:, 0, 0, 0].tolist())


def caches(folder):
    return sorted((folder / "data/cache").glob("*.npz"))


def test_all_damaged_files_are_named(tmp_path):
    folder = write(tmp_path / "images", 9)
    for i in range(5):
        cut(folder / f"{i}.png")
    (folder / "8.png").write_text("<html>")
    with pytest.raises(UserError) as told:
        image_folder(str(folder), 8, 1)
    text = str(told.value)
    assert all(f"{i}.png (" in text.replace(" cannot be read", "") for i in range(3)) and ", nor 3 more: mend" in text
    assert text.endswith("mend or remove them, or set data.skip_damaged=true to go on without, in a new run.")
    for i in (0, 1, 2, 3, 4):
        (folder / f"{i}.png").unlink()
    with pytest.raises(UserError, match=r"The image .*8\.png cannot be read \(it is no image.*\): mend or remove it, "):
        image_folder(str(folder), 8, 1)


@pytest.mark.parametrize("limit", [4.0, 1e-9])
def test_damaged_files_are_left_out_as_if_they_were_not_there(limit, tmp_path, log):
    folder, whole = write(tmp_path / "images"), write(tmp_path / "whole")
    for i in (2, 3):
        cut(folder / f"{i}.png")
        (whole / f"{i}.png").unlink()
    left = image_folder(str(folder), 8, 1, memory_limit=limit, skip_damaged=True)
    assert "2.png cannot be read" in log.text and "3.png (" in log.text
    assert "left out (2 of 6), by data.skip_damaged=true." in log.text
    clean = image_folder(str(whole), 8, 1, memory_limit=limit)
    for name in ("train", "test"):
        a, b = getattr(left, name), getattr(clean, name)
        assert torch.equal(a.select(torch.arange(len(a)))[0], b.select(torch.arange(len(b)))[0])


def test_of_damaged_files_alone_nothing_is_left(tmp_path):
    folder = write(tmp_path / "images", 2)
    for i in range(2):
        cut(folder / f"{i}.png")
    with pytest.raises(UserError, match=r"data.root=.*images: none of its 2 images can be read"):
        image_folder(str(folder), 8, 1, skip_damaged=True)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser may read everything")
def test_files_that_may_not_be_read_are_named(tmp_path):
    folder = write(tmp_path / "images")
    (folder / "1.png").chmod(0)
    with pytest.raises(UserError, match=r"1\.png cannot be read \(Permission denied\)"):
        image_folder(str(folder), 8, 1)


def test_of_large_folders_the_heads_are_looked_at_first(tmp_path):
    folder = write(tmp_path / "images", size=40)
    (folder / "1.png").write_text("no image")
    with pytest.raises(UserError, match=r"1\.png cannot be read"):
        image_folder(str(folder), 40, 1, memory_limit=1e-9)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_damaged_body_met_in_training_is_named(workers, tmp_path):
    folder = write(tmp_path / "images", size=40)
    for i in range(6):  # whole heads, and nothing after them
        path = folder / f"{i}.png"
        path.write_bytes(path.read_bytes()[:45])
    files = ImageFiles(sorted(folder.iterdir()), None, 40, 1, way_out="mend it, or start a new run with …")
    with pytest.raises(UserError, match=r"^The image .*\.png cannot be read \(.*\): mend it, or start a new run with"):
        next(batches(files, 2, 0, 0, torch.device("cpu"), workers=workers))


def test_several_frames_are_said_once(tmp_path, log):
    folder = write(tmp_path / "images")
    first, *others = (Image.new("L", (8, 8), shade) for shade in (100, 0, 50))
    first.save(folder / "moving.gif", save_all=True, append_images=others)
    data = image_folder(str(folder), 8, 1)
    assert "with several frames, the first is taken (1: moving.gif)" in log.text
    assert shades(data) == sorted([*range(0, 120, 20), 100])


def test_transparency_takes_the_background_of_the_data(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(4):
        Image.new("RGBA", (8, 8), (10, 20, 30, 0)).save(folder / f"{i}.png")
    assert shades(image_folder(str(folder), 8, 1)) == [255] * 4
    assert shades(image_folder(str(folder), 8, 1, background="black")) == [0] * 4
    files = image_folder(str(folder), 8, 3, background=[1, 2, 3], memory_limit=1e-9)
    assert isinstance(files.train, ImageFiles) and files.background == (1, 2, 3)
    assert files.test[0][0][:, 0, 0].tolist() == [1, 2, 3]
    with pytest.raises(ValueError, match="background=mud is no colour"):
        image_folder(str(folder), 8, 1, background="mud")


# ------------------------------------------------------------------------------------------- the cache


def count_reads(monkeypatch):
    """A list that grows by each file that is decoded."""
    read, decode = [], reading.decode_file
    monkeypatch.setattr(reading, "decode_file", lambda path, *how: (read.append(path), decode(path, *how))[1])
    return read


def test_few_images_are_not_kept(tmp_path):
    image_folder(str(write(tmp_path / "images")), 8, 1)
    assert not caches(tmp_path)


def test_many_images_are_decoded_once(many, tmp_path, monkeypatch, log):
    folder = write(tmp_path / "images")
    read = count_reads(monkeypatch)
    first = image_folder(str(folder), 8, 1)
    assert len(read) == 6 and "Read 6 images in" in log.text and len(caches(tmp_path)) == 1
    second = image_folder(str(folder), 8, 1)
    assert len(read) == 6 and first.fingerprint() == second.fingerprint()
    assert first.fingerprint("test") == second.fingerprint("test")


def change_content(folder):
    Image.new("L", (8, 8), 7).save(folder / "0.png")
    os.utime(folder / "0.png", ns=(0, 1_000_000_001))


def change_name(folder):
    (folder / "0.png").rename(folder / "a.png")


def change_number(folder):
    (folder / "0.png").unlink()


@pytest.mark.parametrize("change", [change_content, change_name, change_number])
def test_a_changed_folder_is_read_anew_and_replaces_its_cache(change, many, tmp_path):
    folder = write(tmp_path / "images")
    image_folder(str(folder), 8, 1)
    old = caches(tmp_path)
    change(folder)
    data = image_folder(str(folder), 8, 1)
    assert len(caches(tmp_path)) == 1 and caches(tmp_path) != old
    assert shades(data)[:2] == {"change_content": [7, 20], "change_name": [0, 20]}.get(change.__name__, [20, 40])


def test_a_folder_that_moved_finds_its_cache(many, tmp_path, monkeypatch, log):
    folder, read = write(tmp_path / "images"), count_reads(monkeypatch)
    first = image_folder(str(folder), 8, 1)
    folder.rename(tmp_path / "moved")
    second = image_folder(str(tmp_path / "moved"), 8, 1)
    assert len(read) == 6 and len(caches(tmp_path)) == 1 and first.fingerprint() == second.fingerprint()
    change_number(tmp_path / "moved")
    assert len(image_folder(str(tmp_path / "moved"), 8, 1).train) == 4
    assert len(read) == 11 and len(caches(tmp_path)) == 1  # nothing stays behind


def test_another_folder_with_the_same_names_sizes_and_times_is_another_one(many, tmp_path):
    """As two archives of bitmaps, whose files all have the time at which they were packed."""
    folders = tmp_path / "dark", tmp_path / "light"
    for k, folder in enumerate(folders):
        folder.mkdir()
        for i in range(6):
            Image.new("L", (8, 8), 100 * k + i).save(folder / f"{i}.ppm")
            os.utime(folder / f"{i}.ppm", ns=(0, 0))
    for _ in range(2):
        assert [shades(image_folder(str(folder), 8, 1)) for folder in folders] == [
            [0, 1, 2, 3, 4, 5],
            [100, 101, 102, 103, 104, 105],
        ]
    assert len(caches(tmp_path)) == 2


def test_other_ways_to_decode_have_caches_of_their_own(many, tmp_path, monkeypatch):
    folder, read = write(tmp_path / "images"), count_reads(monkeypatch)
    ways = [{"image_size": 8}, {"image_size": 4}, {"channels": 3}, {"background": "black"}, {"skip_damaged": True}]
    for _ in range(2):
        for way in ways:
            image_folder(str(folder), **{"image_size": 8, "channels": 1, **way})
    assert len(caches(tmp_path)) == 4 and len(read) == 4 * 6  # to leave out nothing changes nothing


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "another shape"])
def test_a_damaged_cache_is_made_anew(damage, many, tmp_path, log):
    folder = write(tmp_path / "images")
    expected = shades(image_folder(str(folder), 8, 1))
    (kept,) = caches(tmp_path)
    content = bytearray(kept.read_bytes())
    if damage == "another shape":
        np.savez(kept, images=np.zeros((6, 1, 4, 4), np.uint8), damaged=np.zeros(0, int), moving=np.zeros(0, int))
    elif damage == "flipped":
        content[300] ^= 255
        kept.write_bytes(content)
    else:
        kept.write_bytes(content[: len(content) // 2 if damage == "cut" else 0])
    assert shades(image_folder(str(folder), 8, 1)) == expected and "are read anew" in log.text
    log.clear()
    assert shades(image_folder(str(folder), 8, 1)) == expected and "anew" not in log.text


def test_no_room_for_a_cache_is_no_error(many, tmp_path, monkeypatch, log):
    folder = write(tmp_path / "images")
    (tmp_path / "data").write_text("a file where the folder should be")
    assert len(image_folder(str(folder), 8, 1).train) == 5 and "not kept for the next start: " in log.text
    (tmp_path / "data").unlink()
    monkeypatch.setattr(reading.shutil, "disk_usage", lambda place: SimpleNamespace(free=100))
    assert len(image_folder(str(folder), 8, 1).train) == 5 and "the disk is nearly full" in log.text
    assert not caches(tmp_path)


def test_damaged_files_are_tried_again_at_every_start(many, tmp_path, log):
    folder = write(tmp_path / "images")
    whole, times = (folder / "2.png").read_bytes(), (folder / "2.png").stat()
    (folder / "2.png").write_bytes(whole[:44].ljust(len(whole), b"\0"))
    os.utime(folder / "2.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    for _ in range(2):
        log.clear()
        assert len(shades(image_folder(str(folder), 8, 1, skip_damaged=True))) == 5 and "2.png cannot be" in log.text
    with pytest.raises(UserError, match=r"2\.png cannot be read"):
        image_folder(str(folder), 8, 1)
    (folder / "2.png").write_bytes(whole)  # without a trace: as a disk that failed once
    os.utime(folder / "2.png", ns=(times.st_atime_ns, times.st_mtime_ns))
    assert len(shades(image_folder(str(folder), 8, 1, skip_damaged=True))) == 6


def test_of_large_folders_a_look_at_the_heads_is_kept_apart_from_one_at_the_whole(many, tmp_path, monkeypatch):
    folder, opened = write(tmp_path / "images", size=40), []
    monkeypatch.setattr(reading, "open_image", lambda path: (opened.append(path), Image.open(path))[1])
    for _ in range(2):
        assert len(image_folder(str(folder), 40, 1, memory_limit=1e-9).train) == 5 and len(opened) == 6
    read = count_reads(monkeypatch)
    for _ in range(2):
        image_folder(str(folder), 40, 1, memory_limit=1e-9, skip_damaged=True)
        assert len(read) == 6


def test_a_bar_for_many_images_alone(many, tmp_path, capsys):
    image_folder(str(write(tmp_path / "few", 3)), 8, 1)
    assert "reading images" not in capsys.readouterr().err
    image_folder(str(write(tmp_path / "many", 5)), 8, 1)
    assert "reading images" in capsys.readouterr().err
