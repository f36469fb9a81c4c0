"""Draw images with a trained model.

python sample.py checkpoint=latest
python sample.py checkpoint=RUN classes=sneaker n=64 guidance.scale=2 sampler=ddim sampler.steps=50 seed=7
python sample.py checkpoint=RUN classes=[bag,3] png=true gif=true
python sample.py checkpoint=RUN task=inpaint        also image_to_image, interpolate, invert
"""

import logging
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, ListConfig

from diffusion.config.cli import job, launch

log = logging.getLogger("diffusion")
SETTINGS: dict[str, Any] = {
    **dict.fromkeys("task sampler guidance device".split(), DictConfig),
    **dict.fromkeys("n seed".split(), int),
    **dict.fromkeys("averaged grid gif png".split(), bool),
    **dict.fromkeys("checkpoint output_dir".split(), str),
    "batch_size": (int, type(None)),
    "trust": (str, ListConfig, type(None)),  # modules of the user's own
    "ema_width": (float, type(None)),
    "classes": (str, int, ListConfig, type(None)),
}


@hydra.main(config_path="conf", config_name="sample", version_base="1.3")
@job
def main(cfg: DictConfig) -> None:
    from diffusion.config import build, settings, trained
    from diffusion.config.classes import class_numbers
    from diffusion.drawing import names, pictures
    from diffusion.records import checkpoint
    from diffusion.records.results import write_json
    from diffusion.system import ranks
    from diffusion.system.errors import UserError
    from diffusion.tasks import Job

    settings.check_top_level(cfg, SETTINGS)
    task = build.build(cfg.task, "task")
    if cfg.gif and not task.films:
        raise UserError("gif=true films new images alone: leave it out, or use task=generate.")
    for group in () if task.chooses else ("sampler", "guidance"):
        for name, value in cfg[group].items():
            if value is not None:
                raise UserError(
                    f"{group}.{name}={value} has no effect on task={type(task).__name__.lower()}, which walks both "
                    "ways by DDIM without guidance: leave it out."
                )
    for name in ("n", "batch_size"):
        if cfg[name] is not None and cfg[name] < 1:
            raise UserError(f"{name}={cfg[name]} must be at least 1.")
    model, state = trained.open_model(cfg)
    sampler = trained.choose_sampler(cfg.sampler, state["config"])
    log.info(
        "%s, step %d: %s; %s.",
        checkpoint.find(cfg.checkpoint),
        state["step"],
        sampler.describe(),
        model.guidance.describe(),
    )

    classes = class_numbers(cfg.classes, model)
    labels = model.labels(cfg.n, classes)
    film = pictures.Film(model.to_images, labels, model.class_names, sampler.evaluations) if cfg.gif else None
    made = task.run(
        Job(
            model=model,
            sampler=sampler,
            data=lambda: build.data_of(state),
            n=cfg.n,
            classes=classes,
            seed=cfg.seed,
            batch_size=model.device.images_at_once(cfg.batch_size, model.shape[1:]),
            observe=film,
        )
    )
    if not ranks.first():
        return
    folder = Path(cfg.output_dir)
    pictures.save_samples(folder / "samples.npz", made.images, made.labels)
    if cfg.grid:
        pictures.save_picture(folder / "grid.png", made.picture)
    if cfg.png:
        pictures.save_pngs(folder / "images", made.images, made.labels, model.class_names)
    if film is not None:
        film.save(folder / "denoising.gif", made.images)
    if made.numbers:
        write_json(folder / "task.json", made.numbers)
    legend = names.legend(model.class_names)
    if legend and labels is not None:
        log.info("Classes whose names a picture cannot show stand there by their numbers: %s.", legend)
    if made.says:
        log.info("%s", made.says)
    log.info("%d images are in %s", len(made.images), folder)


if __name__ == "__main__":
    launch(main)
