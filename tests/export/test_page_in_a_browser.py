"""The page that draws, opened from the disk in headless Chromium: its pixels against PyTorch's from the same noise."""

import json
import shutil
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
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
    "like unet_light in int8": case({}, (Cosine(), V()), GUIDED, UniPC(6), [2], "int8", width=24),
    "like unet_tiny": case(
        {}, (Linear(), Epsilon()), ClassifierFree(scale=3.0, rescale=0.7), Heun(5), [1], attention=[1]
    ),
    "colours, patch 1, not square": case(
        {"size": [12, 20], "channels": 3}, (Flow(), Direction()), ClassifierFree(scale=1.5), DDIM(8, eta=1.0), [0, 1],
        patch=1, width=9, multipliers=[1, 2, 2], blocks=2, attention=[0, 2], groups=3, head_width=3, sinusoid_ratio=1,
    ),
    "padding, no guidance": case(
        {"size": [9, 12], "padding": [1, 2, 0, 4]}, (Exploding(), EDM(0.5)), Unconditional(),
        Heun(6, variable="sigma", grid="karras"), [None], patch=1,
    ),
    "sides that are halved with a rest": case(
        {}, (Cosine(), X0()), ClassifierFree(scale=2.0), DPMSolver(5), [1], multipliers=[1, 2, 2]
    ),
    "CFG++": case({}, (Cosine(), V()), ClassifierFree(scale=0.6, plus_plus=True), Euler(5), [1], learns_variance=True),
    "consistency": case(
        {}, (Cosine(), V()), ClassifierFree(scale=1.0), Consistency(3), [1], width=4, groups=2, head_width=4
    ),
}  # fmt: skip

LACKS = {  # what an old browser lacks → a script that takes it away
    "DecompressionStream": "delete window.DecompressionStream",
    "WebAssembly with SIMD": "WebAssembly.validate = () => false",
    "rounded rectangles": "delete CanvasRenderingContext2D.prototype.roundRect",
}


def rounded(weight, form):
    """The weights of a page as PyTorch can hold them: in large ones the nearest of 255 steps of each row."""
    if form != "int8" or weight.ndim < 2 or weight.numel() < 4096:
        return weight
    step = weight.flatten(1).abs().amax(dim=1).view(-1, *[1] * (weight.ndim - 1)) / 127
    return (weight / step).round() * step


def drawn(made, noise):
    """PyTorch's images (n, C, H, W), from the same noise (n, draws, C, H, W)."""
    network = made.model.denoiser.network
    weights = {name: rounded(weight, made.weights) for name, weight in network.state_dict().items()}
    changed = sum(not torch.equal(weight, weights[name]) for name, weight in network.state_dict().items())
    assert (changed > 5) == (made.weights == "int8")
    network.load_state_dict(weights)
    left = list(noise.unbind(1))
    labels = None if made.labels[0] is None else torch.tensor(made.labels)
    x = made.sampler.sample(made.model.guidance.guide(made.model.denoiser), lambda: left.pop(0), labels)
    return made.model.to_images(x).numpy()


def seen_by_a_browser(page, folder, answers, seconds=120):
    """What the page sends to the address it is given, once it has sent so many answers as JSON."""
    found, done = [], threading.Event()

    class Listener(BaseHTTPRequestHandler):
        def do_POST(self):
            found.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()
            if len(found) == answers:
                done.set()

        def log_message(self, *arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Listener)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    command = [CHROMIUM, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"{page.as_uri()}?{server.server_port}"]
    browser = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        done.wait(seconds)
    finally:
        browser.terminate()
        browser.wait()
        server.shutdown()
        server.server_close()
    return found


def settings(sampler):
    return {"_target_": f"diffusion.sampler.{type(sampler).__name__}", **vars(sampler)}


def made_page(path, made, script, head=""):
    """The page of a case, with scripts of the test's own at its end and at its beginning."""
    export_page(SimpleNamespace(image_model=made.model, config={"sampler": settings(made.sampler)}), path, made.weights)
    text = path.read_text(encoding="utf-8").replace("</body>", f"<script>{script}</script></body>")
    path.write_text(text.replace("<head>", f"<head><script>{head}</script>"), encoding="utf-8")


@pytest.fixture(scope="module")
def answers(tmp_path_factory):
    """name → what its page says of itself, with PyTorch's images; all pages side by side in one, of a phone's width."""
    folder = tmp_path_factory.mktemp("pages")
    expected, frames = {}, []
    for number, (name, made) in enumerate(CASES.items()):
        noise = torch.randn((len(made.labels), 10, *made.model.shape), generator=torch.Generator().manual_seed(number))
        asked = {"labels": made.labels, "noise": noise.flatten(1).tolist(), "scale": made.model.guidance.scale}
        made_page(
            folder / f"{number}.html",
            made,
            f"const asked = {{...{json.dumps(asked)}, sampler: about.samplers[0], steps: about.samplers[0].steps}};"
            "const wide = document.documentElement.scrollWidth > innerWidth;"
            "diffusion.draw(asked).then((images) => images.map((image) => [...image]), String).then((images) => "
            f"parent.postMessage({{name: {json.dumps(name)}, images, wide, text: document.body.innerText}}, '*'));",
        )
        expected[name] = drawn(made, noise)
        # One without a worker: there the page itself evaluates the network.
        frames.append(f"{number}.html{'#no-worker' if number == 1 else ''}")
    for number, (lack, script) in enumerate(LACKS.items()):
        tell = f"parent.postMessage({{name: {json.dumps(lack)}, text: document.body.innerText}}, '*')"
        made_page(folder / f"old{number}.html", CASES["like unet_light"], tell, script)
        frames.append(f"old{number}.html")
    outer = folder / "all.html"
    outer.write_text(
        "<!doctype html><script>addEventListener('message', ({data}) => fetch('http://127.0.0.1:' + "
        "location.search.slice(1), {method: 'POST', mode: 'no-cors', body: JSON.stringify(data)}))</script>"
        + "".join(f'<iframe width=360 height=740 src="{frame}"></iframe>' for frame in frames),
        encoding="utf-8",
    )
    told = {each["name"]: each for each in seen_by_a_browser(outer, folder, len(frames))}
    return {**told, **{name: {**told[name], "expected": images} for name, images in expected.items()}}


@pytest.mark.parametrize("name", CASES)
def test_the_pixels_are_those_of_pytorch(answers, name):
    """The same but for the order of sums; an image of one grey level would not do."""
    expected = answers[name]["expected"]
    found = np.array(answers[name]["images"]).reshape(expected.shape)
    assert expected.std() > 5
    assert np.abs(found - expected.astype(int)).max() <= 1
    assert (found != expected).mean() < (0.2 if "fp16" in name else 0.02)


@pytest.mark.parametrize("name", CASES)
def test_a_page_fits_a_telephone(answers, name):
    assert answers[name]["wide"] is False


def test_the_form_has_what_the_model_has(answers):
    labelled, plain_one = (answers[name]["text"] for name in ("like unet_light", "padding, no guidance"))
    assert "<b>0</b>" in labelled and "One of each" in labelled and "Guidance" in labelled
    assert "Nine images" in plain_one and "One of each" not in plain_one and "Guidance" not in plain_one


@pytest.mark.parametrize("lack", LACKS)
def test_an_old_browser_gets_a_sentence(answers, lack):
    text = answers[lack]["text"]
    assert f"too old to draw here, as it lacks {lack}: open the page in" in text and "Guidance" not in text
