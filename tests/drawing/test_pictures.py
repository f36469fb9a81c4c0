"""Grids, films and files of images, as a program reads them back."""

import numpy as np
import torch
from PIL import Image

from diffusion.drawing.pictures import Film, class_grid, grid_layout, save_picture, save_pngs, save_samples, tile


def shades(n, channels=1):
    """Images of 4×4 pixels, each of one grey that is its number."""
    return torch.arange(n, dtype=torch.uint8).view(n, 1, 1, 1).expand(n, channels, 4, 4).contiguous()


def test_every_image_has_its_place_and_white_lines_around():
    picture = tile(shades(5, channels=3), columns=3, gap=1)
    assert picture.shape == (3, 2 * 5 + 1, 3 * 5 + 1)
    for i in range(5):
        top, left = 5 * (i // 3) + 1, 5 * (i % 3) + 1
        assert (picture[:, top : top + 4, left : left + 4] == i).all()
        assert (picture[:, top - 1] == 255).all() and (picture[:, :, left - 1] == 255).all()
    assert (picture[:, 6:, 11:] == 255).all()  # the place that is left


def test_classes_that_go_round_have_a_column_each():
    names = list("abc")
    assert grid_layout(torch.tensor([0, 1, 2] * 4), names, 12) == (3, names)
    assert grid_layout(torch.tensor([2, 2, 2, 2]), names, 4) == (2, ["c"])
    assert grid_layout(None, names, 10) == (4, [])
    assert grid_layout(torch.tensor([0, 1, 2, 2, 1, 0, 0, 2] * 2 + [1, 1]), names, 18)[1] == []  # no rule in it


def test_captions_stand_above_and_pixels_are_twice_as_large(tmp_path):
    save_picture(tmp_path / "deep" / "grid.png", class_grid(shades(6), torch.tensor([0, 1, 2] * 2), list("abc")))
    with Image.open(tmp_path / "deep" / "grid.png") as picture:
        assert picture.size == (2 * (3 * 5 + 1), 2 * (2 * 5 + 1) + 18)


def test_samples_are_written_in_the_usual_format(tmp_path):
    images, labels = shades(4, channels=3), torch.tensor([1, 0, 1, 1])
    save_samples(tmp_path / "a.npz", images, labels)
    save_samples(tmp_path / "b.npz", images, None)
    with np.load(tmp_path / "a.npz") as a, np.load(tmp_path / "b.npz") as b:
        assert a["arr_0"].shape == (4, 4, 4, 3) and a["arr_0"].dtype == np.uint8 and b.files == ["arr_0"]
        assert np.array_equal(a["arr_0"], images.permute(0, 2, 3, 1)) and a["arr_1"].tolist() == labels.tolist()
    save_pngs(tmp_path / "pngs", images, labels, ["x", "y"])
    found = sorted(str(path.relative_to(tmp_path / "pngs")) for path in (tmp_path / "pngs").rglob("*.png"))
    assert found == ["x/000001.png", "y/000000.png", "y/000002.png", "y/000003.png"]
    assert (np.array(Image.open(tmp_path / "pngs" / "y" / "000002.png")) == 2).all()


def test_a_film_has_about_25_frames_of_the_first_batch(tmp_path):
    film = Film(lambda x: x.to(torch.uint8), None, [], steps=100, most=3)
    for _ in range(2):  # a batch that was halved begins anew
        film.restart()
        for step in range(100):
            film(shades(8).float() * step, shades(8).float())
    assert len(film.frames) == 25
    film.save(tmp_path / "a.gif", shades(8) * 30)
    with Image.open(tmp_path / "a.gif") as gif:
        assert gif.n_frames == 26 and gif.size == (2 * (2 * 5 + 1), 2 * (2 * 5 + 1))  # of three images


def test_images_of_an_earlier_drawing_are_told_and_left(tmp_path, caplog):
    save_pngs(tmp_path, shades(3), None, [])
    caplog.clear()
    save_pngs(tmp_path, shades(3), None, [])
    assert not caplog.records
    save_pngs(tmp_path, shades(2), torch.tensor([0, 1]), ["x", "y"])
    assert "holds 3 other images, from before" in caplog.text
    assert len(list(tmp_path.glob("**/*.png"))) == 5
