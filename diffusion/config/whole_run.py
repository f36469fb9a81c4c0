"""A whole run, from its settings to its scores: what `train.py` and `diffusion.train` do."""

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from shlex import quote
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from diffusion.config import command, guiding, left_open, opening, padding, resuming, settings, starting, training_run
from diffusion.config.fallback import fall_back
from diffusion.config.settings import Config
from diffusion.evaluation.report import summary, write_report
from diffusion.records import checkpoint
from diffusion.records.results import fingerprint, finished, write_json
from diffusion.system import ranks
from diffusion.system.errors import UserError
from diffusion.training.interruption import trusting

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
# One row of these in TensorBoard's HPARAMS tab; always the same, because it shows the first run's keys alone.
HYPERPARAMETERS = (
    "model.width schedule.steps guidance.dropout guidance.scale ema.decay optimizer.lr training.batch_size seed"
).split()


def train(cfg: DictConfig, overrides: Sequence[str], sweep: str | None = None) -> float | None:
    """Train, draw and score. A run of the same settings that was stopped in this folder is gone on with.

    Args:
        cfg: the composed settings, changed in place; `output_dir` is the folder.
        overrides: of the command line.
        sweep: the name of the sweep that the run is part of.

    Returns:
        the FID, which sweeps minimise.

    Raises:
        UserError: the settings do not fit each other, the data or the run that is gone on with.
    """
    settings.check_top_level(cfg, SETTINGS)
    folder, overrides = Path(cfg.output_dir), list(overrides)
    if left := [*settings.leave_out_foreign(cfg, overrides), *fall_back(cfg, overrides)]:
        groups = ", ".join(dict.fromkeys(name.partition(".")[0] for name in left))
        log.info("Not taken from the experiment, since the command chose another %s: %s.", groups, ", ".join(left))
    settings.choose_length(cfg, overrides)
    asked = asked_for(cfg)
    done = ranks.shared(None if cfg.resume else finished(folder, overrides=overrides, asked=asked))
    if done is not None:
        log.info("%s holds this very run, finished: nothing to do.", folder)
        return done.get("fid")
    config, state, start = begun(cfg, overrides)
    trainer = training_run.build_trainer(config, folder, state, start, sweep)
    if ranks.first():
        OmegaConf.save(config, folder / "config.yaml")
    if ranks.size() > 1:
        log.info("%d processes share every batch.", ranks.size())
    log.info("Run folder: %s", folder)
    again = f"diffusion.train(config, {str(folder)!r})" if command.from_python() else trainer.state.way_on()
    log.info("If it is interrupted, continue with: %s", again)
    try:
        show_settings(trainer.tracker, config)
        fid = trainer.fit().get("score/fid")
    finally:
        trainer.tracker.close()
    if ranks.first():
        conclude(trainer, {"step": trainer.progress.step, "overrides": overrides, "asked": asked, "config": config})
        OmegaConf.save(config, folder / "config.yaml")  # its guidance may have been chosen at the end
    return fid


def asked_for(cfg: DictConfig) -> str:
    """A short text that is another one for another run, or another source of one's own parts."""
    config = resuming.plain(cfg)
    # By the first names of all classes, so that a run is known again after one of them has moved.
    names = {**checkpoint.FORMER, guiding.AUTOMATIC: guiding.LABELLED}
    config_of_before, own = settings.without_later(checkpoint.with_names(config, names)), opening.recorded(config)
    return fingerprint([config_of_before, written(cfg.checkpoint), *([own] if own else [])])


def written(path: str | None) -> int | None:
    """When the checkpoint that a run starts from was written; None where there is none (any more)."""
    try:
        return None if path is None else checkpoint.find(path).stat().st_mtime_ns
    except UserError:
        return None


def begun(cfg: DictConfig, overrides: list[str]) -> tuple[Config, Config | None, Config | None]:
    """The config of the run, the checkpoint that it goes on from, and the one whose weights it starts from."""
    folder, config = Path(cfg.output_dir), resuming.plain(cfg)
    again = not cfg.resume and (folder / checkpoint.LAST).exists()  # a batch system, or a sweep, starts a run again
    if again or cfg.resume:
        path = folder / checkpoint.LAST if again else checkpoint.find(cfg.resume, setting="resume")
        own, state = opening.recorded(config), opening.opened(path, groups=None)
        guiding.settle(cfg, state["image"])
        padding.settle(cfg, state)
        left_open.settle(cfg, state["config"])
        if again:
            resuming.same_run(folder, state["config"], resuming.plain(cfg))
            opening.same_source(folder, state, own)
            log.info("%s holds this run, at step %d: going on with it.", folder, state["step"])
        return resuming.resumed_config(state["config"], cfg, overrides), state, None
    if cfg.checkpoint:
        start = opening.opened(checkpoint.find(cfg.checkpoint), groups=starting.needed(overrides))
        return starting.starting_config(start, cfg, overrides), None, start
    if cfg.loss["_target_"] == "diffusion.loss.consistency.Consistency":
        raise UserError("loss=consistency teaches a trained model to draw in few steps: add checkpoint=RUN.")
    return config, None, None


def show_settings(tracker: Any, config: Config) -> None:
    """The settings of the run, where it is shown."""
    tracker.text("config", OmegaConf.to_yaml(config))
    options = {
        name: config[name]["_target_"].rpartition(".")[2] for name in "data model schedule objective loss".split()
    }
    values = {name: OmegaConf.select(OmegaConf.create(config), name) for name in HYPERPARAMETERS}
    metrics = ["score/fid", "score/inception_score", "score/accuracy"]
    tracker.hyperparameters({**options, **values}, metrics)
    tracker.configuration(config)


def conclude(trainer: Any, extra: dict[str, Any]) -> None:
    """Write the report, and say what there is; `extra` is what programs want to know besides the scores."""
    folder, scores = trainer.folder, trainer.monitor.scores
    if scores is not None:
        write_report(folder, [scores], extra, trainer.monitor.pictures)
        log.info("A quick estimate of %s:\n%s", scores["protocol"]["images"], summary([scores]))
        for note in scores["notes"]:
            log.info("%s", note)
        way = f"{quote(os.path.relpath(folder))}{trusting(trainer.state.header.get('own_parts', ()))}"
        shell = f"python evaluate.py checkpoint={way} n=10000"
        better = "diffusion.evaluate(model, n=10000)" if command.from_python() else shell
        log.info("Better ones take more images: %s", better)
    elif not (folder / "report.md").exists():
        write_json(folder / "metrics.json", {"status": "finished", **extra})
    log.info("Done. The grid, the scores and the checkpoint are in %s", folder)
