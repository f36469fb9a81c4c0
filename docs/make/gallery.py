"""Makes docs/gallery.md and its pictures: what each setting does, to be seen before it is used.

    python docs/make/gallery.py checkpoint=latest       all pictures and the page; two minutes on a CPU
    python docs/make/gallery.py only=schedule,loss      the pictures of these groups, and the page
    python docs/make/gallery.py only=                   the page alone

The checkpoint is a run of the quickstart (python train.py); its model draws the pictures of samplers and guidance.
"""

import re
import sys
from collections.abc import Sequence

import gallery_data  # noqa: F401  each of these puts its pictures into PICTURES
import gallery_drawn  # noqa: F401
import gallery_noise  # noqa: F401
import gallery_weights  # noqa: F401
from gallery_parts import FOLDER, PICTURES, ROOT, Material, Picture, options

from diffusion.evaluation.document import markdown_table
from diffusion.system.errors import UserError

PAGE = ROOT / "docs" / "gallery.md"
GROUPS = {  # in the order of the page → what the group decides
    "schedule": "How much of the image and how much noise there is at time t: x_t = α x_0 + σ ε.",
    "objective": "What the network predicts, from which x̂_0, its estimate of the clean image, follows.",
    "loss": "How much an error counts, by the noise level at which it is made.",
    "timesteps": "Which noise levels a training sees, and how often.",
    "sampler": "How a trained model walks from noise to an image. It can be chosen anew for every drawing.",
    "guidance": "How closely the label is followed. Its settings can be chosen anew for every drawing, too.",
    "ema": "Which average of the weights draws.",
    "optimizer": "How a gradient becomes a step of the weights.",
    "data": "How images are brought to one size, and varied in training.",
}
BY_THE_MODEL = {"timesteps", "sampler", "guidance"}  # groups with pictures that the trained model draws
SETTINGS = {"data": ["fit", "flip", "shift"]}  # of groups whose options are no choice to be seen
HEAD = """# Gallery

What a setting does, seen before it is used. Above each picture stands a command that uses such a setting, below it what
to look for. Every picture is drawn by the package's own code. Where a trained model draws, it is one of the quickstart,
`python train.py`; your own quickstart draws them anew with `python docs/make/gallery.py checkpoint=latest`."""
TASKS = """## task

What else a trained model can do: paint part of an image anew, draw one again from under noise, walk from one seed to
another, and find the noise that an image comes from.

```bash
python sample.py checkpoint=latest task=inpaint
```

![inpainting, image to image, interpolation and inversion](tasks.png)

In reading order: `inpaint` (the known half, and three ways to complete it), `image_to_image` (garments drawn again as
bags: the higher the t, the less is left of them), `interpolate` (from one seed to another, a class in each row) and
`invert` (the noise that images come from, and the images that come back from it)."""


def shown(group: str) -> list[Picture]:
    """The pictures of a group."""
    return [each for each in PICTURES if each.group == group]


def anchor(title: str) -> str:
    """What GitHub calls a heading in a link."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def table() -> str:
    """Every group with its options and where they are seen."""
    rows = []
    for group in GROUPS:
        names = ", ".join(f"`{name}`" for name in SETTINGS.get(group, options(group)))
        pictures = "; ".join(f"[{each.title}](#{anchor(each.title)})" for each in shown(group))
        rows.append([f"`{group}`", names, pictures])
    rows.append(["`task`", ", ".join(f"`{name}`" for name in options("task")), "[task](#task)"])
    return markdown_table(["group", "what is shown", "pictures"], rows)


def page() -> str:
    """The whole page."""
    parts = [HEAD, table()]
    for group, decides in GROUPS.items():
        parts += [f"## {group}", decides]
        for each in shown(group):
            parts += [f"### {each.title}", f"```bash\n{each.command}\n```"]
            parts += [f"![{each.title}](gallery/{each.name}.png)", each.caption]
    return "\n\n".join([*parts, TASKS]) + "\n"


def main(words: Sequence[str]) -> None:
    """Draw what the words ask for, and write the page."""
    given = dict(word.partition("=")[::2] for word in words)
    only = [group for group in given.get("only", ",".join(GROUPS)).split(",") if group]
    wrong = [word for word in words if not word.startswith(("checkpoint=", "only="))]
    wrong += [f"only={group}" for group in only if group not in GROUPS]
    if wrong:
        raise UserError(f"{wrong[0]} is unknown here: say checkpoint=RUN, or only= and some of {','.join(GROUPS)}.")
    made = Material(given.get("checkpoint", "latest"))
    if BY_THE_MODEL.intersection(only):
        print(f"Drawn with a model of {made.model.state['step']:,} steps.")  # opened now, lest it is missing later
    for group in only:
        for each in shown(group):
            each.write(made)
            print(f"{each.name}.png shows {each.title}.")
    PAGE.write_text(page(), encoding="utf-8")
    size = sum(path.stat().st_size for path in FOLDER.glob("*.png"))
    print(f"{PAGE.relative_to(ROOT)} with {len(PICTURES)} pictures, {size / 1e6:.1f} MB.")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        raise SystemExit(str(error)) from None
