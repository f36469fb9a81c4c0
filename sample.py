"""Draw images with a trained model.

python sample.py checkpoint=latest
python sample.py checkpoint=RUN classes=sneaker n=64 guidance.scale=2 sampler=ddim sampler.steps=50 seed=7
python sample.py checkpoint=RUN classes=[bag,3] png=true gif=true
"""

import logging
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig, ListConfig

from diffusion.cli import job, launch

log = logging.getLogger("diffusion")
SETTINGS: dict[str, Any] = {
    **dict.fromkeys("sampler guidance device".split(), DictConfig),
    **dict.fromkeys("n seed batch_size".split(), int),
    **dict.fromkeys("averaged grid gif png".split(), bool),
    **dict.fromkeys("checkpoint output_dir".split(), str),
    "ema_width": (float, type(None)),
    "classes": (str, int, ListConfig, type(None)),
}


@hydra.main(config_path="conf", config_name="sample", version_base="1.3")
@job
def main(cfg: DictConfig) -> None:
    from diffusion import checkpoint, pictures, settings, trained

    settings.check_top_level(cfg, SETTINGS)
    model, state = trained.open_model(cfg)
    sampler = trained.choose_sampler(cfg.sampler, state["config"])
    labels = model.labels(cfg.n, trained.class_numbers(cfg.classes, model))
    log.info(
        "%s, step %d: %s; %s.",
        checkpoint.find(cfg.checkpoint),
        state["step"],
        sampler.describe(),
        model.guidance.describe(),
    )

    film = pictures.Film(model.to_images, labels, model.class_names, sampler.evaluations) if cfg.gif else None
    images = trained.draw(model, sampler, cfg.n, labels, cfg.seed, cfg.batch_size, film)
    folder = Path(cfg.output_dir)
    pictures.save_samples(folder / "samples.npz", images, labels)
    if cfg.grid:
        pictures.save_picture(folder / "grid.png", pictures.class_grid(images, labels, model.class_names))
    if cfg.png:
        pictures.save_pngs(folder / "images", images, labels, model.class_names)
    if film is not None:
        film.save(folder / "denoising.gif", images)
    log.info("%d images are in %s", len(images), folder)


if __name__ == "__main__":
    launch(main)
