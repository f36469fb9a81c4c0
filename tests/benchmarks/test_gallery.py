"""The gallery: its page is what the script makes, no option is missing in it, and its pictures show what they say."""

import math
import sys

import numpy as np
import plain
import pytest
import torch
from config_helpers import compose, train_config
from conftest import ROOT
from PIL import Image

sys.path.insert(0, str(ROOT / "docs" / "make"))
import gallery
import gallery_noise
import gallery_weights
from gallery_parts import FOLDER, PICTURES, Material, options

from diffusion.config.build import Recipe, build
from diffusion.ema import gamma
from diffusion.model import Model
from diffusion.system.device import Device
from diffusion.system.errors import UserError

OF_OPTIONS = "schedule objective loss timesteps sampler guidance ema optimizer".split()


@pytest.fixture(scope="module")
def made():
    return Material("no such run")


@pytest.fixture(scope="module")
def untrained():
    """Material whose model knows nothing."""
    made, state = Material(), plain.state()
    small = {"width": 8, "multipliers": [1, 2], "blocks": 1, "patch": 2, "head_width": 8, "groups": 4}
    state["config"] = {**plain.CONFIG, "model": {**plain.CONFIG["model"], **small}}
    made.model = Model(state, Device("cpu", precision="fp32"))
    return made


def test_the_page_is_what_the_script_makes():
    """Else make it anew: python docs/make/gallery.py only="""
    assert gallery.PAGE.read_text(encoding="utf-8") == gallery.page()


@pytest.mark.parametrize("group", OF_OPTIONS)
def test_every_option_is_on_the_page_and_in_a_picture(group):
    """Else draw the pictures of its group anew: python docs/make/gallery.py only=GROUP"""
    found = {path.stem for path in (ROOT / "conf" / group).iterdir()}
    (row,) = [line for line in gallery.PAGE.read_text(encoding="utf-8").splitlines() if line.startswith(f"| `{group}`")]
    assert all(f"`{option}`" in row for option in found)
    whole = [each for each in PICTURES if each.group == group and each.whole]
    assert whole
    for each in whole:
        assert set(Image.open(FOLDER / f"{each.name}.png").text["shows"].split()) == found


def test_every_picture_is_there_and_all_are_small():
    files = {path.name: path.stat().st_size for path in FOLDER.iterdir()}
    assert files.keys() == {f"{each.name}.png" for each in PICTURES}
    assert sum(files.values()) < 2.5e6
    text = gallery.PAGE.read_text(encoding="utf-8")
    assert all(f"(gallery/{name})" in text for name in files)


def test_every_picture_says_what_to_look_for():
    for each in PICTURES:
        assert each.caption.endswith("."), each.name
        assert each.command.startswith(("python train.py ", "python sample.py ")) and each.group in gallery.GROUPS


def test_links_of_the_table_lead_to_headings():
    heads = [line.lstrip("# ") for line in gallery.page().splitlines() if line.startswith("#")]
    assert len({gallery.anchor(head) for head in heads}) == len(heads)
    assert gallery.anchor("An interval, the contrast restored, and CFG++") == (
        "an-interval-the-contrast-restored-and-cfg"
    )
    assert all(f"(#{gallery.anchor(each.title)})" in gallery.table() for each in PICTURES)


def test_profiles_of_the_averages(made):
    """Against the closed forms: a geometric series, and a power of τ."""
    (last,) = gallery_weights.profiles(made, "none", 50).values()
    assert last.tolist() == [0.0] * 50 + [1.0]
    (average,) = gallery_weights.profiles(made, "average", 50).values()  # of so few steps all are in the warm-up
    expected = [9 / (10 + k) * math.prod((1 + j) / (10 + j) for j in range(k + 1, 51)) for k in range(1, 51)]
    torch.testing.assert_close(average[1:].double(), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=1e-7)
    steps = 400
    for name, profile in gallery_weights.profiles(made, "power", steps).items():
        width = float(name.rpartition(" ")[2])
        k = torch.arange(1, steps + 1, dtype=torch.float64)
        power = (k ** (gamma(width) + 1)).diff(prepend=torch.zeros(1).double()) / steps ** (gamma(width) + 1)
        torch.testing.assert_close(profile[1:].double(), power, rtol=1e-3, atol=1e-6)
        assert float((profile[1:] * (k / steps - (profile[1:] * k).sum() / steps) ** 2).sum()) ** 0.5 == (
            pytest.approx(width, rel=0.02)
        )


def test_loss_weights_in_terms_of_the_image(made):
    """Equal weights of x_0, ε and v are 1, SNR and SNR + 1 for the image (Salimans & Ho 2022, section 4), and those of
    a flow's velocity on its own schedule 1/σ², as x̂_0 − x_0 is σ times its error."""
    alpha, sigma = gallery_noise.levels(made.part("schedule", "cosine"))
    snr = (alpha / sigma) ** 2
    torch.testing.assert_close(snr, gallery_noise.RATIOS**-2, rtol=1e-2, atol=0)

    def of_image(loss, objective, alpha=alpha, sigma=sigma):
        parts = made.part("loss", loss), made.part("objective", objective)
        return gallery_noise.loss_weights_of(*parts, alpha, sigma)[1]

    for objective in options("objective"):
        torch.testing.assert_close(of_image("min_snr", objective), snr.clamp(max=5), rtol=1e-6, atol=0)
        torch.testing.assert_close(of_image("p2", objective), snr / (1 + snr), rtol=1e-6, atol=0)
    torch.testing.assert_close(of_image("target", "x0"), torch.ones_like(snr))
    torch.testing.assert_close(of_image("hybrid", "epsilon"), snr, rtol=1e-6, atol=0)
    torch.testing.assert_close(of_image("target", "v"), snr + 1, rtol=1e-6, atol=0)
    torch.testing.assert_close(of_image("edm", "edm"), of_image("target", "edm"), rtol=1e-6, atol=0)
    t = 1 / (1 + 1 / gallery_noise.RATIOS)
    torch.testing.assert_close(of_image("target", "flow", 1 - t, t), t**-2, rtol=1e-6, atol=0)


def test_muon_moves_all_directions_alike(made):
    gradient = torch.diag(0.8 ** torch.arange(24)).float()
    values = torch.linalg.svdvals(gallery_weights.one_step(made, "muon", gradient))
    assert float(values.min() / values.max()) > 0.4
    entry = gallery_weights.one_step(made, "adamw", torch.tensor([[3.0, -0.2], [1e-3, 5.0]]))
    torch.testing.assert_close(entry, 2e-4 * torch.tensor([[1.0, -1.0], [1.0, 1.0]]), rtol=1e-3, atol=0)


def test_a_picture_is_drawn_the_same_twice(made, tmp_path):
    (each,) = [each for each in PICTURES if each.name == "schedule_noise"]
    for folder in ("a", "b"):
        each.write(made, tmp_path / folder)
    assert (tmp_path / "a" / "schedule_noise.png").read_bytes() == (tmp_path / "b" / "schedule_noise.png").read_bytes()
    picture = np.asarray(Image.open(tmp_path / "a" / "schedule_noise.png"))
    image = made.garments([gallery_noise.BOOT])[0, 0].repeat_interleave(3, 0).repeat_interleave(3, 1).numpy()
    left = next(x for x in range(200) if np.array_equal(picture[29 : 29 + 84, x : x + 84], image))  # the image at t = 0
    last = picture[29 : 29 + 84, left + 10 * 87 : left + 10 * 87 + 84]  # and at t = 1, of the same noise for all
    assert not np.array_equal(last, image) and np.array_equal(last[::3, ::3].repeat(3, 0).repeat(3, 1), last)


@pytest.mark.slow
@pytest.mark.parametrize("each", PICTURES, ids=lambda each: each.name)
def test_every_picture_can_be_drawn(each, untrained, tmp_path):
    each.write(untrained, tmp_path)
    picture = Image.open(tmp_path / f"{each.name}.png")
    assert 500 <= picture.width <= 1100 and picture.height >= 100 and len(picture.convert("L").getcolors()) > 20


@pytest.mark.slow
@pytest.mark.parametrize("each", PICTURES, ids=lambda each: each.name)
def test_every_command_is_understood(each, mini):
    script, *words = each.command.split()[1:]
    config = compose(script.removesuffix(".py"), *words)
    if script == "train.py" and "checkpoint=latest" not in words and "data=image_folder" not in words:
        assert Recipe(train_config(*words), mini.describe())
    for group in ("sampler", "guidance"):
        settings = {key: value for key, value in (config[group] or {}).items() if value is not None}
        if script == "sample.py" and "_target_" in settings:
            assert build(settings, group)


def test_what_is_wrong_is_said_in_one_sentence(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    for words, named in (
        (["only=schedules"], "schedules"),
        (["model=mine"], "model"),
        (["checkpoint=nowhere", "only=guidance"], "checkpoint=nowhere"),
    ):
        with pytest.raises(UserError, match=named):
            gallery.main(words)
