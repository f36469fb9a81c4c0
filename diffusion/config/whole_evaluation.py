"""A whole evaluation, from its settings to the report: what `evaluate.py` and `diffusion.evaluate` do.

A set of images, drawn by a model or found in a file, is scored against the images it imitates. Python may give the
model or the images themselves in the place of checkpoint= or samples=.
"""

import logging
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from omegaconf import DictConfig, ListConfig, OmegaConf

from diffusion.config import build, opening, settings, trained
from diffusion.config.settings import Config
from diffusion.data.datasets import fashion_mnist_here
from diffusion.data.images import ImageFiles, Images
from diffusion.drawing import pictures
from diffusion.drawing.image_model import ImageModel
from diffusion.evaluation import likelihood
from diffusion.evaluation.illustrations import illustrate
from diffusion.evaluation.report import METRICS, bits_text, summary, value_of, write_report
from diffusion.evaluation.samples import as_samples, load_samples
from diffusion.evaluation.seeds import over_seeds
from diffusion.records import checkpoint
from diffusion.records.results import Scores, finished
from diffusion.records.tensorboard import TensorBoard
from diffusion.records.tracking import Tracker
from diffusion.system import ranks
from diffusion.system.errors import UserError

log = logging.getLogger("diffusion")
SETTINGS: dict[str, Any] = {
    **dict.fromkeys("sampler guidance device features".split(), DictConfig),
    **dict.fromkeys("n seed repeats likelihood".split(), int),
    **dict.fromkeys("batch_size likelihood_steps likelihood_evaluations".split(), (int, type(None))),
    **dict.fromkeys("averaged classification_accuracy".split(), bool),
    "checkpoint": (str, type(None)),
    "samples": (str, ListConfig, type(None)),
    "data": (DictConfig, type(None)),
    "ema_width": (float, type(None)),
    "output_dir": str,
    "trust": (str, ListConfig, type(None)),  # modules of the user's own
}
# Settings that samples= leaves no room for.
DRAWING = ("n", "seed", "batch_size", "repeats", "averaged", "ema_width", "sampler", "guidance")


class Given(NamedTuple):
    """What Python gives: a model with its checkpoint, or pixels uint8 (N, H, W, C) or (N, C, H, W), labels (N,)."""

    model: ImageModel | None = None
    state: Config | None = None
    pixels: np.ndarray | None = None
    labels: np.ndarray | None = None


def evaluate(
    cfg: DictConfig, overrides: Sequence[str], folder: Path | None, again: bool = False, given: Given | None = None
) -> Scores:
    """Score a model or images, with seeds or several files side by side.

    Args:
        cfg: the composed settings.
        overrides: of the command line.
        folder: of the report, its pictures and samples; None writes nothing.
        again: leave out what the folder holds already, as a sweep that is started anew does.
        given: a model or images in the place of checkpoint= and samples=.

    Returns:
        what metrics.json holds: the scores of the first set, and how it was made.

    Raises:
        UserError: the settings do not fit each other, the model or the images.
    """
    settings.check_top_level(cfg, SETTINGS)
    if given is None and (cfg.checkpoint is None) == (cfg.samples is None):
        raise UserError("Give either checkpoint=RUN, to score a model, or samples=FILE, to score images.")
    device = build.build(cfg.device, "device") if given is None or given.model is None else given.model.device
    inputs = written(cfg) if given is None else {}
    done = finished(folder, overrides=list(overrides), inputs=inputs) if again and folder is not None else None
    if done is not None:  # by a sweep that was stopped and is started again
        log.info("%s holds this very evaluation, finished: nothing to do.", folder)
        return done
    extra: Config = {"overrides": list(overrides), "inputs": inputs}
    images_alone = cfg.samples is not None if given is None else given.model is None
    sets: Iterator[tuple] = (
        from_samples(cfg, device, overrides, given) if images_alone else from_model(cfg, device, extra, folder, given)
    )
    tracker = Tracker() if folder is None else TensorBoard(folder)
    found: dict[str, list] = {}  # name of a set of images → its scores, of one or more seeds
    shown: dict[str, tuple] = {}  # → what to draw, of the first seed
    try:
        for name, images, source, scorer in sets:
            scores = scorer.score(images, source, progress=True)
            if not ranks.first():
                continue
            shown.setdefault(name, (images, scorer, scorer.nearest))
            if cfg.classification_accuracy:
                scores["classification_accuracy"] = scorer.classification_accuracy(images)
            found.setdefault(name, []).append(scores)
        if not ranks.first():
            return {"fid": 0.0}
        merged = {name: over_seeds(several) for name, several in found.items()}
        first = next(iter(merged.values()))
        first |= {"likelihood": extra.pop("likelihood")} if "likelihood" in extra else {}
        if folder is not None:
            report(folder, merged, shown, tracker, extra)
    finally:
        tracker.close()
    if folder is not None:
        say(folder, merged)
    return {**extra, **first}


def report(folder: Path, merged: dict[str, Scores], shown: dict[str, tuple], tracker: Tracker, extra: Config) -> None:
    """Write the report and its pictures, also to where the tracker shows them."""
    names, sets, step, drawn = list(merged), list(merged.values()), extra.get("step", 0), []
    if sets[0].get("likelihood"):
        tracker.scalars({"score/bits_per_dim": sets[0]["likelihood"]["bits_per_dim"]}, step)
    for number, (name, scores) in enumerate(merged.items(), start=1):
        images, scorer, nearest = shown[name]
        suffix, prefix = f"_{number}" if number > 1 else "", f"{name}: " if len(names) > 1 else ""
        made = illustrate(folder, scorer, images, scores, nearest, tracker, step, suffix)
        drawn += [(file, prefix + caption) for file, caption in made]
    tracker.scalars({f"score/{metric.key}": value_of(sets[0], metric.key) for metric in METRICS}, step)
    write_report(folder, sets, extra, drawn, names)


def say(folder: Path, merged: dict[str, Scores]) -> None:
    """The main scores and where the others are, in the log."""
    names, sets = list(merged), list(merged.values())
    log.info("Scored %s.\n%s", sets[0]["protocol"]["images"] if len(sets) == 1 else names, summary(sets, names))
    for name, scores in merged.items():
        for note in scores["notes"]:
            log.info("%s%s", f"{name}: " if len(names) > 1 else "", note)
    found = sets[0].get("likelihood")
    if found:
        text = "Bits per dimension of %d test images: %s; with a histogram %s, as PNG %s."
        codes = (bits_text(found["reference"][code]) for code in ("histogram", "png"))
        log.info(text, found["n"], bits_text(found), *codes)
    log.info("The report is %s, and the same as one file to mail: %s", folder / "report.md", folder / "report.html")


def written(cfg: DictConfig) -> dict[str, int]:
    """When what is scored was last written, in nanoseconds, by its path."""
    if cfg.checkpoint is not None:
        places = [checkpoint.find(cfg.checkpoint)]
    else:
        places = [Path(str(place)) for place in ([cfg.samples] if isinstance(cfg.samples, str) else cfg.samples)]
    return {str(path.resolve()): path.stat().st_mtime_ns for path in places if os.path.exists(path)}


def from_samples(cfg: DictConfig, device: Any, overrides: Sequence[str], given: Given | None = None) -> Iterator[tuple]:
    """(name, images, source, scorer) of each file or folder, or of the images that Python gives."""
    what = "samples=" if given is None else "images"
    drawing = [o for o in overrides if o.split("=")[0].split(".")[0] in DRAWING]
    if drawing:
        raise UserError(f"{drawing[0]} says how to draw from a checkpoint, but {what} are scored as they are.")
    if cfg.likelihood:
        raise UserError(
            f"likelihood={cfg.likelihood} needs a model, and {what} are images without one: give checkpoint=RUN."
        )
    places = [cfg.samples] if isinstance(cfg.samples, str) else [str(place) for place in cfg.samples or []]
    if given is None and (not places or len(set(places)) < len(places)):
        raise UserError(f"samples={places}: give one or more files or folders, each once.")
    if cfg.data is None:
        data = fashion_mnist_here()
        log.info("No data= was given, so the images are taken to imitate data=%s.", data.name)
    else:
        if "_target_" not in cfg.data:
            raise UserError(
                f"data.{next(iter(cfg.data))} needs data to belong to: add data=image_folder or data=arrays."
            )
        data = build.build_data(cfg.data)
    loaded: dict[str, tuple[str, Images | ImageFiles]]
    if given is not None and given.pixels is not None:
        loaded = {"images": ("images", as_samples(given.pixels, given.labels, data))}
    else:  # all of them first: what is wrong is told at once
        loaded = {place: (f"samples={place}", load_samples(place, data)) for place in places}
    for source, images in loaded.values():
        if cfg.classification_accuracy and images.labels is None:
            raise UserError(f"classification_accuracy=true needs images with labels: {source} has none.")
    scorer = build.build_scorer(cfg.features, data, device)
    for name, (source, images) in loaded.items():
        yield name, images, source, scorer


def from_model(
    cfg: DictConfig, device: Any, extra: Config, folder: Path | None, given: Given | None = None
) -> Iterator[tuple]:
    """(name, images, source, scorer) of each seed; puts what programs want to know of the model into `extra`."""
    if cfg.n < 2 or cfg.repeats < 1:
        raise UserError(
            f"n={cfg.n} must be at least 2 (a useful FID needs more than 192) and repeats={cfg.repeats} at least 1."
        )
    own_data = cfg.data is None or "_target_" not in cfg.data
    if given is not None and given.model is not None and given.state is not None:
        model, state = given.model, given.state
        asked: Any = OmegaConf.to_container(cfg.guidance, resolve=True)
        trained.set_guidance(model, state, asked)
    else:
        model, state = trained.open_model(cfg, device, (*opening.DRAWING, "data") if own_data else opening.DRAWING)
    batch_size = device.images_at_once(cfg.batch_size, model.shape[1:])
    data = build.data_of(state, cfg.data)
    likelihood.check_settings(cfg.likelihood, cfg.likelihood_steps, cfg.likelihood_evaluations, data)
    one_class = len(model.class_names) == 1 and not data.class_names  # a run from when one class was a label
    if model.guidance.conditional and data.class_names != model.class_names and not one_class:
        raise UserError(f"data={data.name} has other classes than those this model draws: choose data with the same.")
    if cfg.classification_accuracy and not model.guidance.conditional:
        raise UserError("classification_accuracy=true needs images with labels: this model was trained without.")
    sampler = trained.choose_sampler(cfg.sampler, state["config"])
    scorer = build.build_scorer(cfg.features, data, device)  # before the long part
    weights = trained.weights_in_words(cfg.averaged, cfg.ema_width)
    extra["step"], scale = state["step"], model.guidance.scale
    extra["settings"] = {
        "checkpoint": str(cfg.checkpoint),
        "sampler": sampler.describe().replace(f", {sampler.steps} steps", ""),
        "steps": sampler.steps,
        "evaluations": 0.0,
        "seconds": 0.0,  # of drawing, all repeats together
        "guidance": scale if isinstance(scale, int | float) else sum(scale) / len(scale),
        "seed": cfg.seed,
        "weights": weights,
    }
    for seed in range(cfg.seed, cfg.seed + cfg.repeats):
        labels, start = model.labels(cfg.n), time.perf_counter()
        images = model.draw(sampler, cfg.n, labels, seed, batch_size, progress=True)
        extra["settings"]["seconds"] += time.perf_counter() - start
        extra["settings"]["evaluations"] = model.evaluations
        file = "samples.npz" if seed == cfg.seed else f"samples_seed{seed}.npz"
        if ranks.first() and folder is not None:
            pictures.save_samples(folder / file, images, labels)
        source = (
            f"checkpoint={cfg.checkpoint}, {weights} at step {state['step']}; {sampler.describe()}; "
            f"{model.guidance.describe()}; seed {seed}"
        )
        yield "generated", Images(images, labels if data.class_names else None), source, scorer
    if cfg.likelihood and ranks.first():
        extra["likelihood"] = bound(cfg, model, state, data, device.at_most(batch_size))


def bound(cfg: DictConfig, model: ImageModel, state: Config, data: Any, batch_size: int) -> Scores:
    """The bits per dimension of test images."""
    return likelihood.measure(
        model.denoiser,
        data,
        cfg.likelihood,
        conditional=model.guidance.conditional and state["config"]["guidance"].get("dropout") != 1,
        steps=cfg.likelihood_steps,
        evaluations=cfg.likelihood_evaluations,
        seed=cfg.seed,
        batch_size=batch_size,
        device=model.device.torch_device,
        padding=model.image["padding"],
    )
