"""Which files below a folder are its owner's images; everything else is passed over, and counted."""

import logging
import os
import shlex

import pytest
from PIL import Image

from diffusion.data.folders import find_images, look
from diffusion.system.errors import UserError


def put(*places):
    """Grey images of 8×8 pixels."""
    for place in places:
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(place)


def found(folder):
    return [path.relative_to(folder).as_posix() for path in look(folder).images]


def link(place, target):
    try:
        place.symlink_to(target)
    except OSError:
        pytest.skip("this system makes no links")


def test_what_systems_and_programs_leave_beside_images_is_passed_over(tmp_path, caplog):
    mine = ["a/1.png", "a/2.JPG", "b/3.png", "b/deep/4.png"]
    foreign = [
        *("._1.png", "a/._1.png", ".hidden.png", ".ipynb_checkpoints/1-checkpoint.png", "a/.thumbs/1.png"),
        *(
            "__MACOSX/a/1.png",
            "a/@eaDir/1.png",
            "$RECYCLE.BIN/1.png",
            "System Volume Information/1.png",
            "#recycle/1.png",
        ),
    ]
    put(*(tmp_path / name for name in mine + foreign))
    for name in ("Thumbs.db", "a/.DS_Store", "a/notes.txt", "a/labels.json", "b/2.txt", "README"):
        (tmp_path / name).write_bytes(b"no image")
    with caplog.at_level(logging.INFO, "diffusion"):
        paths = find_images(tmp_path, "data.root")
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == mine
    (line,) = caplog.messages
    assert line.startswith(f"data.root={tmp_path}: passed over ")
    assert "5 hidden (._1.png, .hidden.png, .ipynb_checkpoints, …)" in line
    assert "6 of the operating system" in line  # five folders and Thumbs.db
    assert "4 files of other kinds (.txt, .json, without a suffix)" in line


def test_a_tidy_folder_is_read_without_a_word(tmp_path, caplog):
    put(tmp_path / "1.png")
    (tmp_path / ".DS_Store").write_bytes(b"which every folder on a Mac has")
    with caplog.at_level(logging.INFO, "diffusion"):
        assert len(find_images(tmp_path)) == 1
    assert not caplog.messages


def test_a_folder_called_like_an_image_is_a_folder(tmp_path):
    put(tmp_path / "frames.png" / "1.png", tmp_path / "2.png")
    (tmp_path / "empty.jpg").mkdir()
    assert found(tmp_path) == ["2.png", "frames.png/1.png"]


RUNS = {  # what the scripts leave in their folders
    "outputs/train/1": ("train.log", "last.pt", "config.yaml", "grid.png", "scores/grid.png"),
    "outputs/sample/1": ("sample.log", "samples.npz", "grid.png", "images/a/000000.png"),
    "outputs/evaluate/1": ("evaluate.log", "metrics.json", "report.md", "grid.png"),
    "outputs/sweep/1": ("sweep.json", "leaderboard.csv", "curves.png", "0_seed-0/metrics.json"),
    "multirun/1": ("multirun.yaml", "0/grid.png", "0/.hydra/config.yaml"),
    "old": (".hydra/config.yaml", "grid.png"),
    "quiet": ("samples.npz", "grid.png", "images/000000.png"),
}


def make_runs(folder):
    for run, names in RUNS.items():
        for name in names:
            if name.endswith(".png"):
                put(folder / run / name)
            else:
                (folder / run / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / run / name).touch()


def test_runs_of_this_program_are_no_data(tmp_path):
    make_runs(tmp_path)
    put(tmp_path / "photos" / "1.png")
    assert found(tmp_path) == ["photos/1.png"]
    assert sorted(look(tmp_path).passed["of this program's runs"]) == sorted(RUNS)


def test_the_images_of_a_run_can_be_asked_for(tmp_path):
    make_runs(tmp_path)
    assert found(tmp_path / "outputs/sample/1/images") == ["a/000000.png"]
    assert found(tmp_path / "outputs/sample/1") == ["images/a/000000.png"]  # without the grid


def test_a_run_in_the_folder_of_its_images_does_not_learn_its_pictures(tmp_path):
    put(tmp_path / "mine.png", tmp_path / "a" / "grid.png")
    for name in ("last.pt", "config.yaml", "train.log"):
        (tmp_path / name).touch()
    put(tmp_path / "grid.png", tmp_path / "confusion.png", tmp_path / "neighbours_2.png")
    assert found(tmp_path) == ["a/grid.png", "mine.png"]
    assert len(look(tmp_path).passed["of this program's runs"]) == 3


def test_one_file_of_the_name_of_a_log_makes_no_run(tmp_path):
    put(tmp_path / "a" / "1.png", tmp_path / "b" / "2.png")
    (tmp_path / "a" / "train.log").touch()
    (tmp_path / "b" / "last.pt").touch()
    assert found(tmp_path) == ["a/1.png", "b/2.png"]


def test_links_are_followed_but_not_in_circles(tmp_path):
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    put(root / "a" / "1.png", elsewhere / "2.png", elsewhere / "deep" / "3.png", tmp_path / "above.png")
    link(root / "b", elsewhere)
    link(root / "4.png", elsewhere / "2.png")
    for place, target in (("up", tmp_path), ("a/root", root), ("a/self", root / "a"), ("top", tmp_path.anchor)):
        link(root / place, target)
    link(elsewhere / "back", root)
    link(root / "a" / "loop.png", "loop.png")
    link(root / "a" / "broken.png", "nowhere.png")
    assert found(root) == ["4.png", "a/1.png", "b/2.png", "b/deep/3.png"]
    passed = look(root).passed
    assert sorted(passed["linked to nothing"]) == ["a/broken.png", "a/loop.png"]
    assert sorted(passed["linked to what is read already"]) == ["a/root", "a/self", "b/back", "top", "up"]


def test_a_split_of_links_has_its_images(tmp_path):
    put(tmp_path / "raw" / "cat" / "1.png", tmp_path / "raw" / "dog" / "2.png")
    (tmp_path / "train").mkdir()
    link(tmp_path / "train" / "cat", tmp_path / "raw" / "cat")
    assert found(tmp_path / "train") == ["cat/1.png"]
    assert "train/cat/1.png" in found(tmp_path)


def test_folders_that_link_to_each_other_are_read_once_in_each(tmp_path):
    """Followed along every way, ten of them would be read millions of times."""
    for i in range(10):
        put(tmp_path / "x" / str(i) / "1.png")
    for i in range(10):
        for j in range(10):
            link(tmp_path / "x" / str(i) / f"to{j}", tmp_path / "x" / str(j))
    assert len(found(tmp_path)) == 10


@pytest.mark.skipif(os.name == "nt", reason="no such files")
def test_what_is_neither_file_nor_folder_is_not_read(tmp_path):
    put(tmp_path / "1.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert found(tmp_path) == ["1.png"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("photos.zip", "photos.zip is an archive: unpack it"),
        ("photos.tar", "photos.tar is an archive: unpack it"),
        ("photos.tar.gz", "photos.tar.gz is an archive: unpack it"),
        ("photos.7z", "photos.7z is an archive: unpack it"),
        ("cat.PNG", "cat.PNG is a single image: give the folder that it lies in"),
        ("cats.npz", "cats.npz is a file of arrays: save its images as files"),
        ("notes.txt", "notes.txt is a file: give a folder of images"),
        ("missing", "missing does not exist"),
    ],
)
def test_one_file_in_the_place_of_a_folder(tmp_path, name, message):
    if name != "missing":
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(UserError, match=message) as told:
        find_images(tmp_path / name, "data.root")
    assert str(told.value).startswith("data.root=")


def test_the_folder_of_a_single_image_can_be_pasted_into_a_shell(tmp_path):
    put(tmp_path / "Bob's cats" / "1.png")
    with pytest.raises(UserError, match="is a single image") as told:
        find_images(tmp_path / "Bob's cats" / "1.png", "data.root")
    words = shlex.split(str(told.value).partition("it lies in, ")[2].removesuffix("."))
    assert words == [f"data.root={tmp_path}/Bob's cats"]


def test_a_folder_without_images_says_what_is_in_it(tmp_path):
    (tmp_path / "1.heic").touch()
    put(tmp_path / ".cache" / "1.png")
    with pytest.raises(UserError, match=r"holds no images .*1 hidden \(\.cache\), 1 file of other kinds \(\.heic\)"):
        find_images(tmp_path)
