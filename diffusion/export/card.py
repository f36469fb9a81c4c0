"""The model card: README.md of a folder that goes round, YAML for programs and then text for people.

Scores stand beside those of real images, and say whose features they are of: an FID of our own classifier is no FID of
InceptionV3.
"""

import html
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from diffusion.drawing.names import titles
from diffusion.export.trained import Trained

# Data sets with a name → their name on the Hub, their licence, and what they are called.
DATA_SETS = {
    "fashion_mnist": ("zalando-datasets/fashion_mnist", "mit", "Fashion-MNIST"),
    "fashion_mnist_mini": ("zalando-datasets/fashion_mnist", "mit", "6,000 images of Fashion-MNIST"),
    "mnist": ("ylecun/mnist", "cc-by-sa-3.0", "MNIST"),
    "kmnist": (None, "cc-by-sa-4.0", "Kuzushiji-MNIST"),
    "cifar10": ("uoft-cs/cifar10", None, "CIFAR-10"),
}
PLACE = re.compile(r"""=[\["']*(/|~|[A-Za-z]:[\\/])""")  # a value that begins as a path of a machine
TOLD = (  # of the scores: key, name, digits, factor
    ("fid", "FID", 3, 1),
    ("kid", "KID × 1000", 2, 1000),
    ("inception_score", "Inception Score", 2, 1),
    ("precision", "precision", 3, 1),
    ("recall", "recall", 3, 1),
    ("coverage", "coverage", 3, 1),
    ("accuracy", "accuracy of the classes asked for", 3, 1),
)


def text(model: Trained, known: Mapping[str, Any], stock: bool) -> str:
    """The whole card.

    Args:
        model: that the folder holds.
        known: its `facts`.
        stock: whether its network is diffusers' own.
    """
    option = str(model.config["data"].get("_target_", "")).rpartition(".")[2]
    hub, licence, called = DATA_SETS.get(option, (None, None, "images of its owner's"))
    head = "\n".join(["---", *yaml(known, hub, licence, called), "---"])
    return "\n\n".join([head, *body(model, known, licence, called, stock)]) + "\n"


def yaml(known: Mapping[str, Any], hub: str | None, licence: str | None, called: str) -> Iterator[str]:
    """The lines for programs; a text in JSON is one in YAML, too."""
    scores = known["scores"]
    yield f"license: {licence or 'other'}"
    yield "library_name: diffusers"
    yield "pipeline_tag: unconditional-image-generation"
    yield "tags:"
    yield from (f"- {tag}" for tag in ("diffusion", "simple-diffusion", "image-generation"))
    if hub:
        yield "datasets:"
        yield f"- {hub}"
    if scores is None:
        return
    yield "model-index:"
    yield f"- name: {quoted(f'Simple Diffusion, {called}')}"
    yield "  results:"
    yield "  - task: {type: unconditional-image-generation}"
    yield f"    dataset: {{name: {quoted(called)}, type: {quoted(hub or 'other')}}}"
    yield "    metrics:"
    for key, name, digits, factor in TOLD:
        if scores[key] is not None:
            whose = f"{name} ({on_one_line(scores['protocol'].get('scorer'))}; n = {scores['n']})"
            yield f"    - {{type: {key}, value: {scores[key] * factor:.{digits}f}, name: {quoted(whose)}}}"


def body(model: Trained, known: Mapping[str, Any], licence: str | None, called: str, stock: bool) -> Iterator[str]:
    """The paragraphs for people."""
    image, names = known["images"], known["images"]["class_names"]
    size = "{}×{}".format(*image["size"])
    kinds = f" of {len(names)} classes ({in_short(names)})" if known["no_label"] else ""
    yield f"# A diffusion model of {called}"
    yield (
        f"It draws images of {size} pixels, {'grey' if image['channels'] == 1 else 'in colour'}{kinds}. It was trained "
        f"with Simple Diffusion, for {known['step']:,} steps."
    )
    if licence is not None:
        yield "The licence at the head of this file is that of the images."
    else:
        yield "The licence of the images is not known here: say it in the first line of this file before it goes round."
    yield "## How to load it"
    yield loading(known, stock)
    yield "## How it was trained"
    yield training(model)
    yield "## How good it is"
    yield scores_text(known)
    yield "## What it is not"
    yield (
        "It has seen nothing but these images, and draws nothing else. It is small and made for learning; its images "
        "may be close to those that it was trained on."
    )


def loading(known: Mapping[str, Any], stock: bool) -> str:
    """How to draw with it."""
    first = str((known["images"]["class_names"] or [""])[0])
    named = json.dumps(first, ensure_ascii=False) if "`" not in first and first.isprintable() else "0"
    labels = f"labels={named}, " if known["no_label"] else ""
    code = (
        "```python\nfrom diffusers import DiffusionPipeline\n\n"
        'pipe = DiffusionPipeline.from_pretrained("FOLDER", trust_remote_code=True)\n'
        f"pipe(4, {labels}seed=0).images[0].show()\n```\n\n"
        "`trust_remote_code=True` runs `pipeline.py` of this folder, which is short: read it first. "
    )
    if not stock:
        return code + "It also runs `unet/network.py`, the code of the network."
    return code + (
        'The network alone needs no code of this folder: `UNet2DModel.from_pretrained("FOLDER", subfolder="unet")`.'
    )


def training(model: Trained) -> str:
    """What it was trained with, and by which command."""
    groups = ("model", "schedule", "objective", "loss", "timesteps", "guidance", "ema", "optimizer")
    nodes = {name: model.config[name] for name in groups if isinstance(model.config.get(name), dict)}
    given = None if model.scores is None else model.scores.get("overrides")
    rows = [f"| {name} | {in_words(node)} |" for name, node in nodes.items()]
    table = "\n".join(["| part | settings |", "|---|---|", *rows])
    if not isinstance(given, list):
        return table
    private = ("data.", "output_dir", "hydra.", "checkpoint", "resume", "features.", "trust")
    words = [str(each) for each in given if not str(each).lstrip("+").startswith(private)]
    words = [word for word in words if not PLACE.search(word)]
    shown = [shlex.quote(word) for word in words if "`" not in word and word.isprintable()]  # within a fence
    return f"```bash\n{' '.join(['python train.py', *shown])}\n```\n\n{table}"


def in_words(node: Mapping[str, Any]) -> str:
    """A node of the config on one line."""
    settings = [f"{name}={value}" for name, value in node.items() if name != "_target_" and value is not None]
    kind = str(node.get("_target_", "")).rpartition(".")[2]
    return plain(", ".join([kind, *settings] if kind else settings))


def scores_text(known: Mapping[str, Any]) -> str:
    """The scores beside those of real images, and how they were measured."""
    scores = known["scores"]
    if scores is None:
        return "No scores are known of these weights."
    real = scores["real"]
    protocol = {key: plain(scores["protocol"].get(key)) for key in ("scorer", "images", "reference", "floor")}
    rows = [
        f"| {name} | {scores[key] * factor:.{digits}f} | "
        + ("–" if real.get(key) is None else f"{real[key] * factor:.{digits}f}")
        + " |"
        for key, name, digits, factor in TOLD
        if scores[key] is not None
    ]
    whose = f"These scores are of the features of: {protocol['scorer']}."
    if "Inception" not in protocol["scorer"]:
        whose += " Its FID is not that of InceptionV3, and compares with no FID in papers."
    return "\n".join(
        [
            f"| score, n = {scores['n']} | this model | real test images, the floor |",
            "|---|---|---|",
            *rows,
            "",
            f"{whose} They were measured on: {protocol['images']}. Reference: {protocol['reference']}; floor: "
            f"{protocol['floor']}.",
        ]
    )


def in_short(names: list[str]) -> str:
    """The first names of some."""
    return plain(", ".join(titles(names[:10]))) + (", …" if len(names) > 10 else "")


def on_one_line(text: Any) -> str:
    """A text without line breaks, and without what no program shows."""
    return "".join(sign for sign in " ".join(str(text).split()) if sign.isprintable())


def plain(text: Any) -> str:
    """A text of the run's or of its data's as Markdown shows it: no tag, no link, no code and no cell of a table."""
    return html.escape(re.sub(r"([\\`\[|])", r"\\\1", on_one_line(text)), quote=False)


def quoted(text: str) -> str:
    """A text in YAML."""
    return json.dumps(text, ensure_ascii=False)
