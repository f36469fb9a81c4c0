"""The colour behind transparent pixels, as it is written on the command line."""

import pytest
from config_helpers import compose
from hydra.core.override_parser.overrides_parser import OverridesParser
from PIL import Image

from diffusion.config.arguments import arranged
from diffusion.config.build import build
from diffusion.system.errors import UserError


def data(folder, written):
    """The data of `data.background=` as a shell gives it."""
    given = arranged([f"data.background={written}"], sweep=False)
    node = compose("train", "data=image_folder", f"data.root={folder}", "data.image_size=8", *given)["data"]
    return build(node, "data")


@pytest.fixture
def folder(tmp_path):
    for i in range(3):
        Image.new("RGBA", (8, 8), (9, 9, 9, 0)).save(tmp_path / f"{i}.png")
    return tmp_path


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("white", (255,) * 3),
        ("black", (0,) * 3),
        ("#ff8000", (255, 128, 0)),
        ("'#ff8000'", (255, 128, 0)),
        ("[1,2,3]", (1, 2, 3)),
    ],
)
def test_a_colour_in_every_way(written, expected, folder):
    found = data(folder, written)
    assert found.background == expected and found.train.images[0, :, 0, 0].tolist() == [*expected]


def test_a_sweep_over_colours():
    (given,) = arranged(["data.background=#ff00ff,black,[1,2,3],#00ff00"], sweep=True)
    swept = OverridesParser.create().parse_override(given).sweep_iterator()
    assert [getattr(each, "text", each) for each in swept] == ["#ff00ff", "black", [1, 2, 3], "#00ff00"]


@pytest.mark.parametrize("written", ["mud", "[1,2]", "[1,2,300]", "#1"])
def test_no_colour_is_one_sentence(written, folder):
    with pytest.raises(UserError, match=r"^data\.background=.* is no colour: give white, black or another name, "):
        data(folder, written)


def test_the_default_is_white(folder):
    assert build(compose("train", "data=image_folder", f"data.root={folder}")["data"], "data").background == (255,) * 3
