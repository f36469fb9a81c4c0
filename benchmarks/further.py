"""A trained model taken further, beside one that begins from nothing with the same images in the same time.

    python train.py hydra.run.dir=outputs/quickstart
    python benchmarks/further.py outputs/quickstart --digits data/mnist      1,000 images of three digits: 10 minutes
    python benchmarks/further.py RUN --images FOLDER --size 32 --channels 3  images of your own

Every training goes through train.py, in a process of its own and with the settings of the quickstart; it is scored by
the same classifier, which has seen neither model. What is finished is not done again. Writes the table of
docs/your_own.md.
"""

import argparse
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from common import ROOT, fill, middle, read, run
from machine import name_of
from PIL import Image

from diffusion.data.datasets import read_idx
from diffusion.evaluation.document import markdown_table

PAGE = ROOT / "docs" / "your_own.md"
DIGITS, TRAINED = (2, 4, 7), 1000  # which are taken, and how many images of them are trained
STARTS = {  # name → (what the table says, further words for train.py)
    "nothing": ("from nothing", ()),
    "further": ("from the trained model", ("checkpoint={checkpoint}",)),
    "frozen": ("from it, its way down frozen", ("checkpoint={checkpoint}", "training.freeze=[first.*,down.*]")),
}


def write_digits(root: Path, folder: Path) -> None:
    """The first 1,000 of three digits among MNIST's test images into folder/train, the other ones into folder/test."""
    if folder.exists():
        return
    pixels, labels = read_idx(root / "t10k-images-idx3-ubyte.gz", 3), read_idx(root / "t10k-labels-idx1-ubyte.gz", 1)
    chosen = torch.isin(labels, torch.tensor(DIGITS)).nonzero().flatten().tolist()
    for number, i in enumerate(chosen):
        place = folder / ("train" if number < TRAINED else "test") / str(int(labels[i]))
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[i].numpy()).save(place / f"{i}.png")


def words(start: str, asked: argparse.Namespace, seed: int) -> list[str]:
    """The command line of a training."""
    found = [word.format(checkpoint=asked.checkpoint.resolve()) for word in STARTS[start][1]]
    found += ["data=image_folder", f"data.root={asked.images}", f"data.image_size={asked.size}"]
    found += [f"data.channels={asked.channels}", f"training.budget={asked.budget}", f"score.n={asked.n}"]
    return [*found, f"seed={seed}", "training.preview_every=0", *asked.words]


def table(found: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """Medians over the seeds of what each start led to, by their metrics.json."""
    rows = []
    for start, runs in found.items():
        if runs:
            seen = [each["step"] * each["config"]["training"]["batch_size"] for each in runs]
            fids, accuracies = ([each.get(name) for each in runs] for name in ("fid", "accuracy"))
            real = [each.get("real", {}).get("fid") for each in runs]
            columns = [middle(seen), middle(fids, 2), middle(accuracies, 3), middle(real, 2)]
            rows.append([STARTS[start][0], *columns, str(len(runs))])
    return markdown_table(["", "images seen", "FID", "accuracy", "FID, real images", "seeds"], rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", type=Path, help="the run to start from")
    parser.add_argument("--digits", type=Path, help="folder of MNIST's t10k files, of which three digits are taken")
    parser.add_argument("--images", type=Path, help="or a folder of images, with train/ and test/ in it or without")
    parser.add_argument("--size", type=int, default=28, help="of the images")
    parser.add_argument("--channels", type=int, default=1)
    parser.add_argument("--budget", default="1min", help="of each training")
    parser.add_argument("--n", type=int, default=1000, help="images that are drawn and scored")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=STARTS, default=list(STARTS))
    parser.add_argument("--folder", type=Path, default=ROOT / "outputs" / "further")
    parser.add_argument("--words", nargs="+", default=[], help="further ones, of every train.py")
    asked = parser.parse_args()
    if (asked.digits is None) == (asked.images is None):
        parser.error("give either --digits or --images")
    folder = asked.folder.resolve() / asked.budget
    if asked.digits is not None:
        asked.images = folder.parent / "digits"
        write_digits(asked.digits, asked.images)
    asked.images = asked.images.resolve()
    found: dict[str, list[dict[str, Any]]] = {start: [] for start in asked.only}
    for seed in range(asked.seeds):
        for start in asked.only:
            place = folder / f"{start}_{seed}"
            given = [*words(start, asked, seed), f"hydra.run.dir={place}"]
            run("train.py", *given, log=folder / f"{start}_{seed}.log")  # of what is finished it says so
            found[start].append(read(place / "metrics.json"))
    head = f"{asked.budget} of training on {name_of(torch.device('cpu'))}, {os.cpu_count()} cores; {asked.n:,} images "
    head += "drawn from each; medians (lowest – highest)."
    text = f"{head}\n\n{table(found)}"
    print(text)
    fill(PAGE, "further", "benchmarks/further.py", text)


if __name__ == "__main__":
    main()
