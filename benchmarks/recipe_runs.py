"""The trainings that the rule behind `auto` is fitted to: one line a score, for benchmarks/recipe.py.

    python benchmarks/recipe_runs.py runs.jsonl                  25 trainings, some two hours of one thread
    python benchmarks/recipe_runs.py runs.jsonl --part 0/2       every second one, beside another process with 1/2
    python benchmarks/recipe_runs.py runs.jsonl --images 3000 --widths 16 --n 200
    python benchmarks/recipe_runs.py runs.jsonl --runs outputs/A outputs/B      the scores of trainings that are done

`experiment=best` is trained with so many images and scored at a few scales around that of the rule. A scaling law asks
for images and parameters, not for seconds, so the number of threads changes nothing but the time that it takes, and
trainings may run side by side. What the file holds already is not done again.
"""

import argparse
import itertools
import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from judge import Judge

import diffusion
from diffusion.model import Model
from diffusion.training import rule

IMAGES = (6_000, 12_000, 24_000, 48_000, 96_000)
WIDTHS = (16, 24, 32, 48, 64)
AROUND = (0.8, 1.0, 1.25)


def scores(images: int, width: int, seed: int, n: int, threads: int) -> Iterator[dict[str, Any]]:
    """The scores of one training.

    Args:
        images: that it sees.
        width: of its network.
        seed: of the training.
        n: images of each FID.
        threads: of the CPU.
    """
    words = [f"training.images={images}", f"model.width={width}", f"seed={seed}", f"device.threads={threads}"]
    quiet = ["training.preview_every=0", "training.checkpoint_every=0", "score.n=0", "track=null"]
    with tempfile.TemporaryDirectory() as folder:
        model = diffusion.train(["experiment=best", "guidance.scale=2", *words, *quiet], folder, progress=False)
    yield from scores_of(model, n)


def scores_of(model: Model, n: int) -> Iterator[dict[str, Any]]:
    """The scores of a trained model, conditional, at scales around that of the rule."""
    judge, labels, known = Judge(model), model.image_model.labels(n), known_by(model, n)
    assert labels is not None
    for factor in AROUND:
        scale = float(f"{factor * rule.numbers(known['images']).scale:.3g}")
        yield {**known, "scale": scale, "fid": judge.drawn(scale, labels)}


def known_by(model: Model, n: int) -> dict[str, Any]:
    """What one training, scored with n images, is recognised by."""
    config, batch = model.config, model.config["training"]["batch_size"]
    known = {"width": config["model"]["width"], "batch": batch, "lr": config["optimizer"]["lr"], "seed": config["seed"]}
    return {"images": model.state["step"] * batch, **known, "n": n}


def missing(file: Path, wanted: Sequence[tuple[int, int, int]], n: int) -> list[tuple[int, int, int]]:
    """Those of the trainings (images, width, seed) that the file has no score of with n images."""
    rows = held(file)
    had = {(row.get("asked", row["images"]), row["width"], row.get("seed", 0)) for row in rows if row.get("n", n) == n}
    return [each for each in wanted if each not in had]


def held(file: Path) -> list[dict[str, Any]]:
    """The scores of a file, none where it does not exist yet."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    return [json.loads(line) for line in lines if line.strip()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    parser.add_argument("--images", type=int, nargs="+", default=IMAGES)
    parser.add_argument("--widths", type=int, nargs="+", default=WIDTHS)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--n", type=int, default=2000, help="images of each FID")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--runs", nargs="+", help="folders of runs of experiment=best to score, instead of training any"
    )
    parser.add_argument("--part", default="0/1", help="k/m: every m-th training, from the k-th on")
    given = parser.parse_args()
    first, step = map(int, given.part.split("/"))
    logging.getLogger("diffusion").setLevel(logging.WARNING)
    torch.set_num_threads(given.threads)
    if given.runs:
        for run in given.runs:
            model = diffusion.load(run)
            if not model.denoiser.num_classes:
                raise SystemExit(f"{run}: this model was trained without labels.")
            known = known_by(model, given.n)
            if any(known.items() <= row.items() for row in held(given.file)):
                print(f"{run}: scored in {given.file} already.")
            else:
                add(given.file, list(scores_of(model, given.n)))
        return
    wanted = sorted(itertools.product(given.images, given.widths, given.seeds), key=lambda run: run[0] * run[1] ** 2)
    for images, width, seed in missing(given.file, wanted[first::step], given.n):
        found = scores(images, width, seed, given.n, given.threads)
        add(given.file, [{"asked": images, **score} for score in found])


def add(file: Path, scores: Sequence[dict[str, Any]]) -> None:
    """Put all scores of a training into the file at once, and show them."""
    text = "".join(json.dumps(score) + "\n" for score in scores)
    with file.open("a", encoding="utf-8") as opened:
        opened.write(text)
    print(text, end="", flush=True)


if __name__ == "__main__":
    main()
