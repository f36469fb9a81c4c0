"""The page that draws, as a file: what it holds, and what is refused."""

import base64
import gzip
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import plain
import pytest
import torch
from safetensors.numpy import load

from diffusion.denoiser import Denoiser
from diffusion.drawing.image_model import ImageModel
from diffusion.export.page import PARTS, export_page, page
from diffusion.export.page_model import guidance_of, levels, offered, own_sampler, tables
from diffusion.export.page_weights import stored
from diffusion.guidance import Autoguidance, Automatic, ClassifierFree, Unconditional
from diffusion.networks.dit import DiT
from diffusion.networks.unet import UNet
from diffusion.objective import EDM, X0, Epsilon, V
from diffusion.objective import Flow as Direction
from diffusion.sampler import DDIM, Consistency, UniPC
from diffusion.schedule import EDM as Exploding
from diffusion.schedule import Cosine, Flow, Linear
from diffusion.system.device import Device
from diffusion.system.errors import NotWritten, UserError

IMAGE = {"size": 28, "channels": 1, "padding": 0, "class_names": [f"class {i}" for i in range(10)]}
SAMPLER = {"_target_": "diffusion.sampler.UniPC", "steps": 7, "clip": None}


def model(network=None, guidance=None, image=None):
    """A model of which the page asks no more than of a trained one."""
    denoiser = Denoiser(network or plain.perturbed(plain.network()), Cosine(), V()).eval()
    drawn = ImageModel(denoiser, guidance or ClassifierFree(scale=2.0), Device("cpu", precision="fp32"), image or IMAGE)
    return SimpleNamespace(image_model=drawn, config={**plain.CONFIG, "sampler": SAMPLER})


class Scripts(HTMLParser):
    """The scripts of a page by their ids."""

    def __init__(self, text):
        super().__init__()
        self.found, self.current = {}, None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.current = dict(attrs).get("id", "") if tag == "script" else None

    def handle_endtag(self, tag):
        self.current = None

    def handle_data(self, data):
        if self.current is not None:
            self.found[self.current] = self.found.get(self.current, "") + data


def held(text):
    """(what the page says of the model, its tensors)."""
    scripts = Scripts(text).found
    return json.loads(scripts["about"]), load(gzip.decompress(base64.b64decode(scripts["model"])))


def test_the_page_holds_the_model_and_asks_for_nothing_else(tmp_path):
    small = model()
    export_page(small, tmp_path / "model.html", "fp32")
    text = (tmp_path / "model.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|\bsrc=|\bhref=|@import|url\(", text)
    assert "default-src 'none'" in text and "connect-src" not in text
    about, tensors = held(text)
    for name, tensor in small.image_model.denoiser.network.state_dict().items():
        assert np.array_equal(tensors[name], tensor.numpy())
    assert about["image"]["classes"] == IMAGE["class_names"]
    assert [about["samplers"][0][key] for key in ("name", "steps", "order")] == ["UniPC", 7, 2]
    assert 7 in about["steps"] and len(tensors["levels.7"]) == 8
    assert text == page(small.image_model, small.config, "fp32")  # the same model makes the same bytes


def test_names_cannot_leave_their_place():
    names = ["</script><b>x</b>", "<!--", "&amp;", '"', "\u2028"]
    network = plain.network(num_classes=5)
    about, _ = held(page(model(network, image={**IMAGE, "class_names": names}).image_model, {}, "fp32"))
    assert about["image"]["classes"] == names


@pytest.mark.parametrize(
    "parts",
    [
        (Cosine(), V()),
        (Linear(), Epsilon()),
        (Cosine(zero_terminal_snr=True), X0()),
        (Flow(), Direction()),
        (Exploding(), EDM(0.5)),
    ],
)
@pytest.mark.parametrize("grid", ["uniform", "karras"])
def test_the_table_is_the_denoiser(parts, grid):
    """With F = −0.3 everywhere, x̂_0 of the table is that of the denoiser, whatever the schedule and the objective."""
    seen = []

    class Constant(torch.nn.Module):
        num_classes = 0

        def forward(self, x, t, labels):
            seen.append((x, t))
            return torch.full_like(x, -0.3)

    denoiser = Denoiser(Constant(), *parts)
    own = DDIM(9, grid=grid)
    table = tables(denoiser, own)["levels.9"]
    times = own.times(denoiser.schedule)
    x_t = torch.linspace(-2, 2, 12).reshape(1, 3, 2, 2)
    for (t, alpha, sigma, c_skip, c_out, c_in), time in zip(table[:-1], times[:-1], strict=True):
        x_0 = denoiser(x_t, time)
        assert t == time
        assert torch.allclose(c_skip * x_t - 0.3 * c_out, x_0, rtol=1e-6, atol=1e-6)
        network_saw, at = seen.pop()
        assert torch.allclose(network_saw, c_in * x_t) and at.item() == pytest.approx(1000 * t, rel=1e-6)
        exact = denoiser.schedule(torch.tensor([t], dtype=torch.float64))
        assert (alpha, sigma) == tuple(value.item() for value in exact)
    assert np.array_equal(table[-1][[0, 2]], [0, 0]) and table[-1][1] == pytest.approx(1)


def test_levels_end_without_noise():
    assert levels(Denoiser(plain.network(), Flow(), V()), [1.0, 0.0])[:, :3].tolist() == [[1, 0, 1], [0, 1, 0]]


def test_int8_is_the_nearest_of_255_steps():
    weight = torch.randn(6, 80, 3, 3, generator=torch.Generator().manual_seed(3))
    weight[2] = 0
    kept = stored({"a.weight": weight, "a.bias": weight[:, 0, 0, 0], "last.weight": weight[:5]}, "int8")
    assert np.array_equal(kept["last.weight"], weight[:5].numpy())  # of fewer than 4,096 numbers
    assert kept["a.weight"].dtype == np.int8 and kept["a.weight.step"].shape == (6,)
    assert np.array_equal(kept["a.bias"], weight[:, 0, 0, 0].numpy())
    step = weight.flatten(1).abs().amax(1) / 127
    error = (torch.tensor(kept["a.weight"]) * step[:, None, None, None] - weight).abs()
    assert bool((error <= step[:, None, None, None] * 0.5001).all())
    assert np.abs(kept["a.weight"].reshape(6, -1)).max(1).tolist() == [127, 127, 0, 127, 127, 127]


def test_fp16_and_the_order_of_memory():
    weight = torch.randn(4, 3, 3, 3).to(memory_format=torch.channels_last)
    assert np.array_equal(stored({"w": weight}, "fp16")["w"], weight.half().contiguous().numpy())
    assert np.array_equal(stored({"w": weight}, "fp32")["w"], weight.contiguous().numpy())


def test_the_quickstart_s_page_is_small():
    network = plain.perturbed(plain.network(width=48, head_width=16, groups=8), 0.05)
    assert sum(parameter.numel() for parameter in network.parameters()) > 1.6e6
    assert len(page(model(network).image_model, {}, "int8")) < 2.5e6


@pytest.mark.parametrize("kind", ["dit", "subclass", "weights", "narrow", "folder"])
def test_what_cannot_be_exported_is_said_in_a_sentence(kind, tmp_path):
    class Own(UNet):
        pass

    small = {"channels": 1, "image_size": 28, "num_classes": 10}
    networks = {
        "dit": lambda: DiT(**small, width=8, depth=1, heads=1, patch=4),
        "subclass": lambda: Own(**small, width=8, head_width=8),
        "narrow": lambda: plain.network(width=2, groups=1, head_width=2),
    }
    words = {
        "weights": "weights=int4 must be one of fp32, fp16, int8",
        "narrow": "model.width=2",
    }
    path = tmp_path / "model.html"
    if kind == "folder":
        path.mkdir()
    network = networks[kind]() if kind in networks else None
    with pytest.raises(
        UserError, match=words.get(kind, "could not be written" if kind == "folder" else "class UNet alone")
    ) as found:
        export_page(model(network), path, "int4" if kind == "weights" else "int8")
    assert str(found.value).endswith(".") and "\n" not in str(found.value)
    assert [each.name for each in tmp_path.iterdir()] == (["model.html"] if kind == "folder" else [])


@pytest.mark.parametrize("name", ["a" * 300 + ".html", "a\0b.html"])
def test_a_page_that_cannot_be_written_is_one_sentence(name, tmp_path):
    with pytest.raises(NotWritten, match=r"could not be written \("):
        export_page(model(plain.network()), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_samplers_that_are_offered():
    denoiser = plain.denoiser()
    names = [row["name"] for row in offered(DDIM(30, eta=0.5), denoiser, False)]
    assert names == ["DDIM, η = 0.5", "DDIM", "DDPM", "Heun", "DPM-Solver++", "UniPC"]
    assert [row["name"] for row in offered(UniPC(12), denoiser, True)] == ["UniPC", "DDIM", "DDPM", "Euler"]
    assert [row["name"] for row in offered(Consistency(), denoiser, False)] == ["Consistency"]
    noisy = Denoiser(plain.network(), Cosine(), Epsilon())
    further = Denoiser(plain.network(), Cosine(), Epsilon(), margin=0.2)
    assert [offered(UniPC(12), each, False)[0]["clip"] for each in (denoiser, noisy, further)] == [None, 1.0, 1.2]
    assert own_sampler({"_target_": "diffusion.sampler.DDIM", "steps": 5000}).steps == 250


def test_what_the_page_draws_otherwise_is_said(caplog):
    """A sampler of the user's own, and a weaker model that stays at home; a guidance of the user's own is refused."""
    assert own_sampler({"_target_": "my_parts.DDIM", "steps": 3}).describe() == UniPC().describe()
    assert caplog.messages[-1] == "The page does not know the run's sampler, my_parts.DDIM: it starts with UniPC."
    weaker = Autoguidance(weaker=None, conditional=True, name="a small one", scale=3.0)
    assert guidance_of(model(guidance=weaker).image_model).scale == 1
    assert "leaves out the guidance by a small one" in caplog.messages[-1]
    own_sampler(SAMPLER), own_sampler({})
    for known in (ClassifierFree(scale=2.0), Automatic(scale=2.0), Unconditional()):
        assert guidance_of(model(guidance=known).image_model) is known
    assert len(caplog.messages) == 2


def test_a_guidance_of_the_user_s_own_is_refused(tmp_path):
    class Mine(ClassifierFree):
        pass

    with pytest.raises(UserError, match=r"to=page cannot draw with the guidance .*Mine, which is not of this package"):
        export_page(model(guidance=Mine(scale=2.0)), tmp_path / "model.html")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("guidance", "free", "classes"),
    [
        (ClassifierFree(0.1, scale=2.0), True, 10),
        (ClassifierFree(0.0, scale=1.0), False, 10),
        (Unconditional(), False, 0),
        (Autoguidance(weaker=None, conditional=True, name="x", scale=3.0), False, 10),
    ],
)
def test_guidance_that_can_be_chosen(guidance, free, classes):
    about, _ = held(page(model(guidance=guidance).image_model, {}, "fp32"))
    assert about["guidance"]["free"] is free and len(about["image"]["classes"]) == classes
    assert about["guidance"]["scale"] == (2.0 if free else 1.0)


def test_each_part_is_small():
    assert (
        max(
            len(file.read_text(encoding="utf-8").splitlines())
            for file in PARTS.glob("*.[jchw][ast]*")
            if file.suffix != ".wasm"
        )
        <= 300
    )
