"""Score a trained model, or any images, beside real test images: FID, KID, precision, recall, accuracy, copies, …

python evaluate.py checkpoint=RUN n=10000
python evaluate.py checkpoint=RUN sampler=ddim sampler.steps=20 guidance.scale=1.5 repeats=3
python evaluate.py checkpoint=RUN likelihood=500        also the bits per dimension that 500 test images need
python evaluate.py samples=mine.npz                     (arr_0 uint8 N×H×W×C, arr_1 labels) or a folder of images
python evaluate.py samples=[mine.npz,theirs/]           side by side, in one table
python evaluate.py -m checkpoint=RUN sampler.steps=5,10,20 guidance.scale=1,2,3     curves
"""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig

from diffusion.config.cli import job, launch

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


@hydra.main(config_path="conf", config_name="evaluate", version_base="1.3")
@job
def main(cfg: DictConfig) -> float:
    from diffusion.config import build, settings
    from diffusion.evaluation.illustrations import illustrate
    from diffusion.evaluation.report import METRICS, bits_text, summary, value_of, write_report
    from diffusion.evaluation.seeds import over_seeds
    from diffusion.records.results import finished
    from diffusion.records.tensorboard import TensorBoard
    from diffusion.system import ranks
    from diffusion.system.errors import UserError

    settings.check_top_level(cfg, SETTINGS)
    if (cfg.checkpoint is None) == (cfg.samples is None):
        raise UserError("Give either checkpoint=RUN, to score a model, or samples=FILE, to score images.")
    folder, device = Path(cfg.output_dir), build.build(cfg.device, "device")
    given = list(HydraConfig.get().overrides.task)
    inputs = written(cfg)
    again = HydraConfig.get().mode == RunMode.MULTIRUN
    done = finished(folder, overrides=given, inputs=inputs) if again else None
    if done is not None:  # by a sweep that was stopped and is started again
        log.info("%s holds this very evaluation, finished: nothing to do.", folder)
        return float(done["fid"])
    extra: dict[str, Any] = {"overrides": given, "inputs": inputs}
    sets: Iterator = from_samples(cfg, device, given) if cfg.samples is not None else from_model(cfg, device, extra)
    tracker = TensorBoard(folder)
    found: dict[str, list] = {}  # name of a set of images → its scores, of one or more seeds
    shown: dict[str, tuple] = {}  # → what to draw, of the first seed
    pictures: list[tuple[str, str]] = []
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
            return 0.0
        names, merged, step = list(found), [over_seeds(several) for several in found.values()], extra.get("step", 0)
        likelihood = extra.pop("likelihood", None)
        if likelihood is not None:
            merged[0]["likelihood"] = likelihood
            tracker.scalars({"score/bits_per_dim": likelihood["bits_per_dim"]}, step)
        for number, (name, scores) in enumerate(zip(names, merged, strict=True), start=1):
            images, scorer, nearest = shown[name]
            suffix, prefix = f"_{number}" if number > 1 else "", f"{name}: " if len(names) > 1 else ""
            drawn = illustrate(folder, scorer, images, scores, nearest, tracker, step, suffix)
            pictures += [(file, prefix + caption) for file, caption in drawn]
        tracker.scalars({f"score/{metric.key}": value_of(merged[0], metric.key) for metric in METRICS}, step)
    finally:
        tracker.close()
    write_report(folder, merged, extra, pictures, names)
    log.info("Scored %s.\n%s", merged[0]["protocol"]["images"] if len(merged) == 1 else names, summary(merged, names))
    for name, scores in zip(names, merged, strict=True):
        for note in scores["notes"]:
            log.info("%s%s", f"{name}: " if len(names) > 1 else "", note)
    if likelihood is not None:
        text = "Bits per dimension of %d test images: %s; with a histogram %s, as PNG %s."
        codes = (bits_text(likelihood["reference"][code]) for code in ("histogram", "png"))
        log.info(text, likelihood["n"], bits_text(likelihood), *codes)
    log.info("The report is %s, and the same as one file to mail: %s", folder / "report.md", folder / "report.html")
    return float(merged[0]["fid"])


def written(cfg: DictConfig) -> dict[str, int]:
    """When what is scored was last written, in nanoseconds, by its path."""
    from diffusion.records import checkpoint

    if cfg.checkpoint is not None:
        places = [checkpoint.find(cfg.checkpoint)]
    else:
        places = [Path(str(place)) for place in ([cfg.samples] if isinstance(cfg.samples, str) else cfg.samples)]
    return {str(path.resolve()): path.stat().st_mtime_ns for path in places if os.path.exists(path)}


def from_samples(cfg: DictConfig, device: Any, overrides: list[str]) -> Iterator[tuple]:
    """(name, images, source, scorer) of each file or folder."""
    from diffusion.config import build
    from diffusion.data.datasets import fashion_mnist_here
    from diffusion.evaluation.samples import load_samples
    from diffusion.system.errors import UserError

    drawing = [o for o in overrides if o.split("=")[0].split(".")[0] in DRAWING]
    if drawing:
        raise UserError(f"{drawing[0]} says how to draw from a checkpoint, but samples= are scored as they are.")
    if cfg.likelihood:
        raise UserError(
            f"likelihood={cfg.likelihood} needs a model, and samples= are images without one: give checkpoint=RUN."
        )
    places = [cfg.samples] if isinstance(cfg.samples, str) else [str(place) for place in cfg.samples]
    if not places or len(set(places)) < len(places):
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
    loaded = [load_samples(place, data) for place in places]  # all of them first: what is wrong is told at once
    for place, images in zip(places, loaded, strict=True):
        if cfg.classification_accuracy and images.labels is None:
            raise UserError(f"classification_accuracy=true needs images with labels: samples={place} has none.")
    scorer = build.build_scorer(cfg.features, data, device)
    for place, images in zip(places, loaded, strict=True):
        yield place, images, f"samples={place}", scorer


def from_model(cfg: DictConfig, device: Any, extra: dict[str, Any]) -> Iterator[tuple]:
    """(name, images, source, scorer) of each seed; puts what programs want to know of the model into `extra`."""
    from diffusion.config import build, opening, trained
    from diffusion.data.images import Images
    from diffusion.drawing import pictures
    from diffusion.evaluation import likelihood
    from diffusion.system import ranks
    from diffusion.system.errors import UserError

    if cfg.n < 2 or cfg.repeats < 1:
        raise UserError(
            f"n={cfg.n} must be at least 2 (a useful FID needs more than 192) and repeats={cfg.repeats} at least 1."
        )
    own_data = cfg.data is None or "_target_" not in cfg.data
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
    width = f" of width {cfg.ema_width:g}" if cfg.ema_width is not None else ""
    weights = f"averaged weights{width}" if cfg.averaged else "weights"
    extra["step"], scale = state["step"], model.guidance.scale
    extra["settings"] = {
        "checkpoint": str(cfg.checkpoint),
        "sampler": sampler.describe().replace(f", {sampler.steps} steps", ""),
        "steps": sampler.steps,
        "evaluations": 0.0,
        "guidance": scale if isinstance(scale, int | float) else sum(scale) / len(scale),
        "seed": cfg.seed,
        "weights": weights,
    }
    for seed in range(cfg.seed, cfg.seed + cfg.repeats):
        labels = model.labels(cfg.n)
        images = model.draw(sampler, cfg.n, labels, seed, batch_size, progress=True)
        extra["settings"]["evaluations"] = model.evaluations
        file = "samples.npz" if seed == cfg.seed else f"samples_seed{seed}.npz"
        if ranks.first():
            pictures.save_samples(Path(cfg.output_dir) / file, images, labels)
        source = (
            f"checkpoint={cfg.checkpoint}, {weights} at step {state['step']}; {sampler.describe()}; "
            f"{model.guidance.describe()}; seed {seed}"
        )
        yield "generated", Images(images, labels if data.class_names else None), source, scorer
    if cfg.likelihood and ranks.first():
        extra["likelihood"] = likelihood.measure(
            model.denoiser,
            data,
            cfg.likelihood,
            conditional=model.guidance.conditional and state["config"]["guidance"].get("dropout") != 1,
            steps=cfg.likelihood_steps,
            evaluations=cfg.likelihood_evaluations,
            seed=cfg.seed,
            batch_size=device.at_most(batch_size),
            device=device.torch_device,
            padding=model.image["padding"],
        )


if __name__ == "__main__":
    launch(main)
