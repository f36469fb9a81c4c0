"""Train a diffusion model, or with `--config-name classifier` the classifier that scores them.

python train.py                                    the quickstart: minutes on a laptop CPU, no download
python train.py experiment=ema                     a rung of the ladder, on the full Fashion-MNIST
python train.py model.width=48 guidance.dropout=0.2 training.batch_size=256 device=cuda
python train.py resume=latest training.steps=5000  go on with a run, in its own folder
python train.py -m schedule=linear,cosine seed=0,1 a sweep, with a leaderboard at its end
"""

import logging
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig

from diffusion.config.cli import job, launch

log = logging.getLogger("diffusion")
SCORER_SETTINGS: dict[str, Any] = {
    **dict.fromkeys("data device scorer".split(), DictConfig),
    "file": (str, type(None)),
    "output_dir": str,
    "trust": (str, ListConfig, type(None)),  # modules of the user's own
}


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
@job
def main(cfg: DictConfig) -> float | None:
    if "scorer" in cfg:
        return train_scorer(cfg)
    from diffusion.config import whole_run

    hydra_config = HydraConfig.get()
    sweep = Path(hydra_config.sweep.dir).name if hydra_config.mode == RunMode.MULTIRUN else None
    return whole_run.train(cfg, list(hydra_config.overrides.task), sweep)


def train_scorer(cfg: DictConfig) -> float:
    """Train the scoring classifier; writes it and the reference statistics of its data. Returns the test accuracy."""
    from diffusion.config import build, settings
    from diffusion.evaluation.cache import save_arrays
    from diffusion.evaluation.classifier import save_classifier
    from diffusion.evaluation.features.classifier import ClassifierFeatures, log_epoch
    from diffusion.evaluation.reference import training_arrays
    from diffusion.records.tensorboard import TensorBoard
    from diffusion.system import ranks
    from diffusion.system.errors import UserError

    settings.check_top_level(cfg, SCORER_SETTINGS)
    if ranks.size() > 1:
        raise UserError("The scorer is trained by one process: leave out torchrun.")
    folder, device, data = Path(cfg.output_dir), build.build(cfg.device, "device"), build.build(cfg.data, "data")
    log.info("Data: %s. Device: %s. Run folder: %s", data.name, device.describe(), folder)
    tracker = TensorBoard(folder)

    def report(epoch: int, scores: dict[str, float]) -> None:
        tracker.scalars(dict(scores), epoch)
        log_epoch(epoch, scores)

    try:
        place = device.torch_device
        classifier, record = build.build(cfg.scorer, "scorer", data=data, device=place, log=report)
    finally:
        tracker.close()
    name = cfg.file or data.name
    path = folder / f"{name}_scorer.safetensors"
    save_classifier(path, classifier, record)
    reference = folder / f"{name}_reference.npz"
    save_arrays(reference, training_arrays(ClassifierFeatures(data, place, str(folder / "cache"), str(path))))
    log.info("Held-out accuracy %.4f, test accuracy %.4f.", record["held_out_accuracy"], record["test_accuracy"])
    log.info("Scorer: %s (use it with features.weights=…); statistics: %s", path, reference)
    return float(record["test_accuracy"])


if __name__ == "__main__":
    launch(main)
