"""Score a trained model, or any images: FID, Inception Score and accuracy, beside real test images.

python evaluate.py checkpoint=RUN n=10000
python evaluate.py checkpoint=RUN sampler=ddim sampler.steps=20 guidance.scale=1.5
python evaluate.py samples=mine.npz                     (arr_0 uint8 N×H×W×C, arr_1 labels) or a folder of images
"""

import logging
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from diffusion.cli import job, launch

log = logging.getLogger("diffusion")
SETTINGS: dict[str, Any] = {
    **dict.fromkeys("sampler guidance device features".split(), DictConfig),
    **dict.fromkeys("n seed batch_size".split(), int),
    **dict.fromkeys("checkpoint samples".split(), (str, type(None))),
    "data": (DictConfig, type(None)),
    "averaged": bool,
    "output_dir": str,
}

DRAWING = ("n", "seed", "batch_size", "averaged", "sampler", "guidance")  # settings that samples= leaves no room for


@hydra.main(config_path="conf", config_name="evaluate", version_base="1.3")
@job
def main(cfg: DictConfig) -> float:
    from diffusion import build, pictures, settings, trained
    from diffusion.errors import UserError
    from diffusion.evaluation.report import summary, write_report
    from diffusion.evaluation.scoring import load_samples, score_images

    settings.check_top_level(cfg, SETTINGS)
    if (cfg.checkpoint is None) == (cfg.samples is None):
        raise UserError("Give either checkpoint=RUN, to score a model, or samples=FILE, to score images.")
    folder, device = Path(cfg.output_dir), build.build(cfg.device, "device")
    overrides = list(HydraConfig.get().overrides.task)
    if cfg.samples is not None:
        drawing = [o for o in overrides if o.split("=")[0].split(".")[0] in DRAWING]
        if drawing:
            raise UserError(f"{drawing[0]} says how to draw from a checkpoint, but samples= are scored as they are.")
        if cfg.data is None:
            raise UserError("samples= needs the data to compare with: add data=fashion_mnist_mini (or another).")
        data = build.build(cfg.data, "data")
        images, labels = load_samples(cfg.samples, data)
        features = build.build(cfg.features, "features", data=data, device=device.torch_device)
        source = f"samples={cfg.samples}"
    else:
        model, state = trained.open_model(cfg, device)
        data = build.build(cfg.data if cfg.data is not None else state["config"]["data"], "data")
        if model.guidance.conditional and data.class_names != model.class_names:
            raise UserError(
                f"data={data.name} has other classes than those this model draws: choose data with the same."
            )
        if cfg.n < 2:
            raise UserError(f"n={cfg.n} must be at least 2; a useful FID needs more than 192.")
        features = build.build(cfg.features, "features", data=data, device=device.torch_device)  # before the long part
        sampler = trained.choose_sampler(cfg.sampler, state["config"])
        labels = model.labels(cfg.n)
        images = trained.draw(model, sampler, cfg.n, labels, cfg.seed, cfg.batch_size)
        pictures.save_samples(folder / "samples.npz", images, labels)
        weights = "averaged weights" if cfg.averaged else "weights"
        source = (
            f"checkpoint={cfg.checkpoint}, {weights} at step {state['step']}; {sampler.describe()}; "
            f"{model.guidance.describe()}; seed {cfg.seed}"
        )
    scores = score_images(images, labels, features, source)
    grid = pictures.class_grid(images[:80], None if labels is None else labels[:80], data.class_names)
    pictures.save_picture(folder / "grid.png", grid)
    write_report(folder, scores, {"overrides": overrides}, "grid.png")
    log.info("Scored %s.\n%s", source, summary(scores))
    log.info("The report is %s", folder / "report.md")
    return float(scores["fid"])


if __name__ == "__main__":
    launch(main)
