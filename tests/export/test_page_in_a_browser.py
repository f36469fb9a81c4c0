"""The page that draws, opened from the disk in headless Chromium: its pixels against PyTorch's from the same noise."""

import json
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from types import SimpleNamespace

import numpy as np
import plain
import pytest
import torch
from conftest import CHROMIUM

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

pytestmark = pytest.mark.browser
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

# All in a function, as the page has its own names. A page that fails waits no longer, and tells what is seen then.
WAIT = """
const deadline = performance.now() + 60000;
const pause = () => new Promise((go) => setTimeout(go, 20));
const until = async (met) => { while (!met() && performance.now() < deadline) await pause(); };
const drawn = () => until(() => !element("save").disabled);
const tell = (found) => parent.postMessage({ name: NAME, ...found }, "*");
"""

# What a person does; it tells what is seen after each, and at last what diffusion.draw gives for the same.
PERSON = """
const type = (key) => document.body.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true }));
const change = (id, value) => {
  element(id).value = value;
  for (const kind of ["input", "change"]) element(id).dispatchEvent(new Event(kind, { bubbles: true }));
};
const seen = {};
const look = (name) => {
  const { width, height } = element("x_0");
  const pixels = [...element("x_0").getContext("2d").getImageData(0, 0, width, height).data];
  const [status, step] = ["status", "step"].map((id) => element(id).textContent);
  seen[name] = { status, step, frames: stage.frames.length, at: stage.at, size: [height, width], pixels };
};
await drawn(); look("at first");
type("1"); await drawn(); look("1");
type("ArrowLeft"); type("ArrowLeft"); look("ArrowLeft");
change("sampler", "DDIM"); await drawn(); look("sampler");
change("steps", about.steps.indexOf(3)); await drawn(); look("steps");
change("seed", 7); await drawn(); look("seed");
type("g"); await drawn(); look("g");
const own = { scale: about.guidance.scale, seed: 0, sampler: about.samplers[0].name, steps: about.samplers[0].steps };
const few = { ...own, sampler: "DDIM", steps: 3 };
const asked = {
  "at first": { ...own, labels: [0] }, 1: { ...own, labels: [1] }, sampler: { ...few, labels: [1], steps: 20 },
  steps: { ...few, labels: [1] }, seed: { ...few, labels: [1], seed: 7 }, g: { ...few, labels: [0, 1, 2], seed: 7 },
};
const programs = {};
for (const [name, request] of Object.entries(asked)) {
  programs[name] = await diffusion.draw(request).then((images) => images.map((image) => [...image]), String);
}
tell({ seen, programs });
"""

# Programs that take the place of the page's drawing and of each other's, and a person who takes theirs.
PROGRAMS = """
const look = () => [element("status").textContent, stage.frames.length];
const told = (drawing) => drawing.then((images) => images.length, (error) => error.message);
await drawn();
choose(1);
const [before] = look();
const requests = [{ steps: 6 }, { steps: 11 }, { steps: 4 }];
const programs = await Promise.all(requests.map((each) => told(diffusion.draw(each))));
await drawn();
const after = look();
const last = diffusion.draw({ steps: 250 });
choose(0);
programs.push(await told(last));
await drawn();
tell({ before, programs, after, at_last: look() });
"""

ACTIONS = {  # name → the case, the script and what stands behind the address
    "a person": ("colours, patch 1, not square", PERSON, ""),
    "programs": ("like unet_light", PROGRAMS, ""),
    "programs without a worker": ("like unet_light", PROGRAMS, "#no-worker"),
}

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


def in_page(script, name):
    """A script that waits for its page and tells the outer one what it found, or how it failed."""
    failed = f"parent.postMessage({{name: {json.dumps(name)}, error: String(error)}}, '*')"
    return f"(async () => {{{WAIT}{script}}})().catch((error) => {failed});".replace("NAME", json.dumps(name))


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
        told = f"{{name: {json.dumps(lack)}, drawing, text: document.body.innerText}}"
        tell = f"diffusion.draw({{}}).catch(String).then((drawing) => parent.postMessage({told}, '*'))"
        made_page(folder / f"old{number}.html", CASES["like unet_light"], tell, script)
        frames.append(f"old{number}.html")
    for number, (name, (kind, script, way)) in enumerate(ACTIONS.items()):
        made_page(folder / f"used{number}.html", CASES[kind], in_page(script, name))
        frames.append(f"used{number}.html{way}")
    outer = folder / "all.html"
    outer.write_text(
        "<!doctype html><script>addEventListener('message', ({data}) => fetch('http://127.0.0.1:' + "
        "location.search.slice(1), {method: 'POST', mode: 'no-cors', body: JSON.stringify(data)}))</script>"
        + "".join(f'<iframe width=360 height=740 src="{frame}"></iframe>' for frame in frames),
        encoding="utf-8",
    )
    told = {each["name"]: each for each in seen_by_a_browser(outer, folder, len(frames))}
    missing = {*CASES, *LACKS, *ACTIONS} - told.keys()
    assert not missing, f"these pages said nothing in time: {', '.join(sorted(missing))}"
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


def test_a_person_sees_what_was_chosen(answers):
    """Number of moments, words, and the pixels of the picture: those that a program gets for the same."""
    assert "error" not in answers["a person"], answers["a person"]
    seen, programs = answers["a person"]["seen"], answers["a person"]["programs"]
    words = {
        name: (each["frames"], each["step"], each["status"].partition(" of the network")[0])
        for name, each in seen.items()
    }
    first, second = "<b>0</b>, seed 0: 16 evaluations", "<b>1</b>, seed 0: 16 evaluations"
    assert words == {
        "at first": (9, "The image", first),
        "1": (9, "The image", second),
        "ArrowLeft": (9, "Step 7 of 8", second),
        "sampler": (21, "The image", "<b>1</b>, seed 0: 40 evaluations"),
        "steps": (4, "The image", "<b>1</b>, seed 0: 6 evaluations"),
        "seed": (4, "The image", "<b>1</b>, seed 7: 6 evaluations"),
        "g": (4, "The image", "One of each, seed 7: 18 evaluations"),
    }
    assert seen["ArrowLeft"]["at"] == 6 and seen["ArrowLeft"]["pixels"] != seen["1"]["pixels"]
    for name, images in programs.items():
        (height, width), shown = (12, 20), np.array(seen[name]["pixels"]).reshape(*seen[name]["size"], 4)
        assert shown.shape == ((25, 41, 4) if name == "g" else (12, 20, 4))  # three lie in two rows, a pixel apart
        for number, image in enumerate(images):
            top, left = number // 2 * (height + 1), number % 2 * (width + 1)
            expected = np.array(image).reshape(3, height, width).transpose(1, 2, 0)
            assert np.array_equal(shown[top : top + height, left : left + width, :3], expected) and expected.std() > 5
    assert len({str(images) for images in programs.values()}) == len(programs)  # each choice changes the image


@pytest.mark.parametrize("name", ["programs", "programs without a worker"])
def test_every_drawing_ends_and_the_page_goes_on_with_its_own(answers, name):
    told, gave_way = answers[name], "another drawing was asked for"
    assert "error" not in told, told
    assert told["before"] == "<b>1</b>, seed 0: drawing …"
    first, wrong, third, last = told["programs"]
    assert (first, third, last) == (gave_way, 1, gave_way) and wrong.startswith("steps=11 must be one of 1, 2, 3")
    for label, (status, frames) in enumerate([told["at_last"], told["after"]]):
        assert status.startswith(f"<b>{label}</b>, seed 0: ") and "evaluations of the network" in status and frames == 7


@pytest.mark.parametrize("lack", LACKS)
def test_an_old_browser_tells_programs_too(answers, lack):
    assert answers[lack]["drawing"] == f"Error: this browser lacks {lack}"
