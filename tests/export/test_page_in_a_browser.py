"""The page that draws, opened from the disk in headless Chromium: its pixels against PyTorch's from the same noise."""

import json
import re
import shutil
import subprocess
from html import unescape
from types import SimpleNamespace

import numpy as np
import plain
import pytest
import torch

from diffusion.denoiser import Denoiser
from diffusion.drawing.image_model import ImageModel
from diffusion.export.page import export_page
from diffusion.guidance import ClassifierFree, Unconditional
from diffusion.objective import EDM, X0, Epsilon, V
from diffusion.objective import Flow as Direction
from diffusion.sampler import DDIM, Consistency, DPMSolver, Euler, Heun, UniPC
from diffusion.schedule import EDM as Exploding
from diffusion.schedule import Cosine, Flow, Linear
from diffusion.system.device import Device

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [pytest.mark.browser, pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")]
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
GREY = {"size": 28, "channels": 1, "padding": 0}
GUIDED = ClassifierFree(scale=2.25, interval=[0.0, 2.9])


def case(image, parts, guidance, sampler, labels, weights="fp32", learns_variance=False, **network):
    """A model, its page's form and what to draw with it."""
    classes = 3 if labels[0] is not None else 0
    image = {**GREY, **image, "class_names": [f"<b>{i}</b>" for i in range(classes)]}
    made = ImageModel(None, guidance, Device("cpu", precision="fp32"), image)
    channels, *size = made.shape
    shape = {"channels": channels, "image_size": size, "num_classes": classes, **network}
    shape |= {"out_channels": 2 * channels} if learns_variance else {}
    made.denoiser = Denoiser(plain.perturbed(plain.network(**shape)), *parts, learns_variance).eval()
    return SimpleNamespace(model=made, sampler=sampler, labels=labels, weights=weights)


CASES = {
    "like unet_light": case({}, (Cosine(), V()), GUIDED, UniPC(6), [2, 0]),
    "like unet_light in fp16": case({}, (Cosine(), V()), GUIDED, UniPC(6), [2], "fp16"),
    "like unet_light in int8": case({}, (Cosine(), V()), GUIDED, UniPC(6), [2], "int8"),
    "like unet_tiny": case({}, (Linear(), Epsilon()), ClassifierFree(scale=3.0, rescale=0.7), Heun(5), [1], attention=[1]),
    "colours, patch 1, not square": case(
        {"size": [12, 20], "channels": 3}, (Flow(), Direction()), ClassifierFree(scale=1.5), DDIM(8, eta=1.0), [0, 1],
        patch=1, width=12, multipliers=[1, 2, 2], blocks=2, attention=[0, 2], groups=3, head_width=4,
    ),
    "padding, no guidance": case(
        {"size": [9, 12], "padding": [1, 2, 0, 4]}, (Exploding(), EDM(0.5)), Unconditional(),
        Heun(6, variable="sigma", grid="karras"), [None], patch=1,
    ),
    "sides that are halved with a rest": case(
        {}, (Cosine(), X0()), ClassifierFree(scale=2.0), DPMSolver(5), [1], multipliers=[1, 2, 2]
    ),
    "CFG++": case({}, (Cosine(), V()), ClassifierFree(scale=0.6, plus_plus=True), Euler(5), [1], learns_variance=True),
    "consistency": case({}, (Cosine(), V()), ClassifierFree(scale=1.0), Consistency(3), [1], width=4, groups=2, head_width=4),
}  # fmt: skip


def rounded(weight, form):
    """The weights of a page as PyTorch can hold them: the nearest of 255 steps of the largest of a row."""
    if form != "int8" or weight.ndim < 2:
        return weight
    step = weight.flatten(1).abs().amax(dim=1).view(-1, *[1] * (weight.ndim - 1)) / 127
    return (weight / step).round() * step


def drawn(made, noise):
    """PyTorch's images (n, C, H, W), from the same noise (n, draws, C, H, W)."""
    network = made.model.denoiser.network
    network.load_state_dict({name: rounded(weight, made.weights) for name, weight in network.state_dict().items()})
    left = list(noise.unbind(1))
    labels = None if made.labels[0] is None else torch.tensor(made.labels)
    x = made.sampler.sample(made.model.guidance.guide(made.model.denoiser), lambda: left.pop(0), labels)
    return made.model.to_images(x).numpy()


def dump(page, folder, *flags):
    """The page's own text after it has run, from the disk."""
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [CHROMIUM, *FLAGS, profile, "--virtual-time-budget=60000", "--dump-dom", *flags, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


def with_script(page, script):
    page.write_text(page.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>"), encoding="utf-8")


def settings(sampler):
    return {"_target_": f"diffusion.sampler.{type(sampler).__name__}", **vars(sampler)}


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """name → (the page's images, PyTorch's), and what each page says of itself; all pages side by side in one."""
    folder = tmp_path_factory.mktemp("pages")
    frames, expected = [], {}
    for number, (name, made) in enumerate(CASES.items()):
        page = folder / f"{number}.html"
        export_page(SimpleNamespace(image_model=made.model, config={"sampler": settings(made.sampler)}), page, made.weights)
        generator = torch.Generator().manual_seed(number)
        noise = torch.randn((len(made.labels), 10, *made.model.shape), generator=generator)
        expected[name] = drawn(made, noise)
        asked = {"labels": made.labels, "noise": noise.flatten(1).tolist(), "sampler": 0, "scale": made.model.guidance.scale}
        with_script(
            page,
            f"const asked = {json.dumps(asked)}; asked.sampler = diffusion.about.samplers[0]; asked.steps = asked.sampler.steps;"
            "const wide = document.documentElement.scrollWidth > innerWidth;"
            "diffusion.draw(asked).then((images) => images.map((image) => [...image]), String).then((images) => "
            f"parent.postMessage({{ name: {json.dumps(name)}, images, wide, text: document.body.innerText }}, '*'));",
        )
        # One without a worker: there the page itself evaluates the network.
        frames.append(f'<iframe width=360 height=740 src="{page.as_uri()}{"#no-worker" if number == 1 else ""}"></iframe>')
    outer = folder / "all.html"
    outer.write_text(
        "<!doctype html><pre id=found></pre><script>const found = [];"
        "addEventListener('message', ({ data }) => { found.push(data);"
        "document.getElementById('found').textContent = JSON.stringify(found) })</script>" + "".join(frames),
        encoding="utf-8",
    )
    text = re.search(r'<pre id="found">(.*?)</pre>', dump(outer, folder), re.DOTALL)[1]
    told = {each["name"]: each for each in json.loads(unescape(text))}
    return {name: (told[name], images) for name, images in expected.items()}


@pytest.mark.parametrize("name", CASES)
def test_the_pixels_are_those_of_pytorch(answers, name):
    """The same but for the order of sums; an image of one grey level would not do."""
    told, expected = answers[name]
    found = np.array(told["images"]).reshape(expected.shape)
    assert expected.std() > 5
    assert np.abs(found - expected.astype(int)).max() <= 1
    assert (found != expected).mean() < (0.2 if "fp16" in name else 0.02)


@pytest.mark.parametrize("name", CASES)
def test_a_page_fits_a_telephone(answers, name):
    assert answers[name][0]["wide"] is False


def test_the_form_has_what_the_model_has(answers):
    labelled, plain_one = (answers[name][0]["text"] for name in ("like unet_light", "padding, no guidance"))
    assert "<b>0</b>" in labelled and "One of each" in labelled and "Guidance" in labelled
    assert "Nine images" in plain_one and "One of each" not in plain_one and "Guidance" not in plain_one


@pytest.mark.parametrize(
    ("script", "lack"),
    [("delete window.DecompressionStream", "DecompressionStream"), ("WebAssembly.validate = () => false", "WebAssembly with SIMD")],
)
def test_an_old_browser_gets_a_sentence(tmp_path, script, lack):
    made = CASES["like unet_light"]
    page = tmp_path / "page.html"
    export_page(SimpleNamespace(image_model=made.model, config={}), page)
    page.write_text(page.read_text(encoding="utf-8").replace("<head>", f"<head><script>{script}</script>"), encoding="utf-8")
    alert = re.search(r'<p id="refusal" role="alert">(.*?)</p>', dump(page, tmp_path))[1]
    assert f"lacks {lack}: open the page in" in alert
