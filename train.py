"""Train a diffusion model, or with `--config-name classifier` the classifier that scores them.

python train.py                                    the quickstart: minutes on a laptop CPU, no download
python train.py experiment=ema                     a rung of the ladder, on the full Fashion-MNIST
python train.py model.width=48 guidance.dropout=0.2 training.batch_size=256 device=cuda
python train.py resume=latest training.steps=5000  go on with a run, in its own folder
python train.py -m schedule=linear,cosine seed=0,1 a sweep, with a leaderboard at its end
"""

import logging
import os
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, ListConfig, OmegaConf

from diffusion.config.cli import job, launch

log = logging.getLogger("diffusion")
GROUPS = (
    "data model schedule objective loss timesteps guidance ema sampler preview optimizer training device features score"
)
SETTINGS: dict[str, Any] = {
    **dict.fromkeys(GROUPS.split(), DictConfig),
    "seed": int,
    **dict.fromkeys(("resume", "checkpoint"), (str, type(None))),
    "output_dir": str,
    "trust": (str, ListConfig, type(None)),  # modules of the user's own
    "track": (str, ListConfig, type(None)),
    "trials": (int, type(None)),  # of search=optuna
}
SCORER_SETTINGS: dict[str, Any] = {
    **dict.fromkeys("data device scorer".split(), DictConfig),
    "file": (str, type(None)),
    "output_dir": str,
    "trust": (str, ListConfig, type(None)),  # modules of the user's own
}
# One row of these in TensorBoard's HPARAMS tab; always the same, because it shows the first run's keys alone.
HYPERPARAMETERS = (
    "model.width schedule.steps guidance.dropout guidance.scale ema.decay optimizer.lr training.batch_size seed"
).split()


@hydra.main(config_path="conf", config_name="train", version_base="1.3")
@job
def main(cfg: DictConfig) -> float | None:
    return train_scorer(cfg) if "scorer" in cfg else train(cfg)


def train(cfg: DictConfig) -> float | None:
    """Train, draw and score; returns the FID, which sweeps minimise.

    A run of the same settings that was stopped in this folder is gone on with.
    """
    from shlex import quote

    from diffusion.config import guiding, opening, padding, resuming, settings, starting, training_run
    from diffusion.evaluation.report import summary, write_report
    from diffusion.records import checkpoint
    from diffusion.records.results import fingerprint, finished, write_json
    from diffusion.system import ranks
    from diffusion.system.errors import UserError
    from diffusion.training.interruption import trusting

    settings.check_top_level(cfg, SETTINGS)
    folder = Path(cfg.output_dir)
    overrides = list(HydraConfig.get().overrides.task)
    for name in settings.leave_out_foreign(cfg, overrides):
        group = name.partition(".")[0]
        log.info("%s is a setting for another %s than the command chose: left out.", name, group)
    settings.choose_length(cfg, overrides)
    config, state, start = resuming.plain(cfg), None, None
    # By the first names of all classes, so that a run is known again after one of them has moved.
    names = {**checkpoint.FORMER, guiding.AUTOMATIC: guiding.LABELLED}
    config_of_before, own = settings.without_later(checkpoint.with_names(config, names)), opening.recorded(config)
    # Another source of one's own parts is another run.
    asked = fingerprint([config_of_before, written(cfg.checkpoint), *([own] if own else [])])
    done = ranks.shared(None if cfg.resume else finished(folder, overrides=overrides, asked=asked))
    if done is not None:
        log.info("%s holds this very run, finished: nothing to do.", folder)
        return done.get("fid")
    again = not cfg.resume and (folder / checkpoint.LAST).exists()  # a batch system, or a sweep, starts a run again
    if again or cfg.resume:
        path = folder / checkpoint.LAST if again else checkpoint.find(cfg.resume, setting="resume")
        state = opening.opened(path, groups=None)
        guiding.settle(cfg, state["image"])
        padding.settle(cfg, state)
        if again:
            resuming.same_run(folder, state["config"], resuming.plain(cfg))
            opening.same_source(folder, state, own)
            log.info("%s holds this run, at step %d: going on with it.", folder, state["step"])
        config = resuming.resumed_config(state["config"], cfg, overrides)
    elif cfg.checkpoint:
        start = opening.opened(checkpoint.find(cfg.checkpoint), groups=starting.needed(overrides))
        config = starting.starting_config(start, cfg, overrides)
    elif cfg.loss["_target_"] == "diffusion.loss.consistency.Consistency":
        raise UserError("loss=consistency teaches a trained model to draw in few steps: add checkpoint=RUN.")
    sweep = Path(HydraConfig.get().sweep.dir).name if HydraConfig.get().mode == RunMode.MULTIRUN else None
    trainer = training_run.build_trainer(config, folder, state, start, sweep)
    if ranks.first():
        OmegaConf.save(config, folder / "config.yaml")
    if ranks.size() > 1:
        log.info("%d processes share every batch.", ranks.size())
    log.info("Run folder: %s", folder)
    log.info("If it is interrupted, continue with: %s", trainer.state.way_on())
    try:
        trainer.tracker.text("config", OmegaConf.to_yaml(config))
        options = {
            name: config[name]["_target_"].rpartition(".")[2] for name in "data model schedule objective loss".split()
        }
        values = {name: OmegaConf.select(OmegaConf.create(config), name) for name in HYPERPARAMETERS}
        metrics = ["score/fid", "score/inception_score", "score/accuracy"]
        trainer.tracker.hyperparameters({**options, **values}, metrics)
        trainer.tracker.configuration(config)
        fid = trainer.fit().get("score/fid")
    finally:
        trainer.tracker.close()
    if not ranks.first():
        return fid
    extra = {"step": trainer.progress.step, "overrides": overrides, "asked": asked, "config": config}
    scores = trainer.monitor.scores
    if scores is not None:
        write_report(folder, [scores], extra, trainer.monitor.pictures)
        log.info("A quick estimate of %s:\n%s", scores["protocol"]["images"], summary([scores]))
        for note in scores["notes"]:
            log.info("%s", note)
        way = f"{quote(os.path.relpath(folder))}{trusting(trainer.state.header.get('own_parts', ()))}"
        log.info("Better ones take more images: python evaluate.py checkpoint=%s n=10000", way)
    elif not (folder / "report.md").exists():
        write_json(folder / "metrics.json", {"status": "finished", **extra})
    log.info("Done. The grid, the scores and the checkpoint are in %s", folder)
    return fid


def written(checkpoint: str | None) -> int | None:
    """When the checkpoint that a run starts from was written; None where there is none (any more)."""
    from diffusion.records.checkpoint import find
    from diffusion.system.errors import UserError

    try:
        return None if checkpoint is None else find(checkpoint).stat().st_mtime_ns
    except UserError:
        return None


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
