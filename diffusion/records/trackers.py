"""Where a run is shown, by the setting `track`; each place is imported when it is asked for.

tensorboard   events in the run's folder: tensorboard.py
wandb         Weights & Biases: weights_and_biases.py
mlflow        MLflow: mlflow_store.py
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from diffusion.records.results import read_metrics
from diffusion.records.tracking import IDS, Several, Tracker
from diffusion.system import ranks
from diffusion.system.errors import UserError

log = logging.getLogger("diffusion")
NAMES = ("tensorboard", "wandb", "mlflow")


def choose(track: str | Sequence[str] | None, folder: Path, first_step: int = 0, group: str | None = None) -> Tracker:
    """The trackers of a run; of several processes the first one's are shown.

    Args:
        track: one of `NAMES`, several of them, or None.
        folder: of the run.
        first_step: of this start.
        group: name of the sweep that the run is part of.

    Raises:
        UserError: there is no such place, it is not installed, or nobody is logged in.
    """
    asked = [] if track is None else list(track) if isinstance(track, list | tuple) else [track]
    if any(name not in NAMES for name in asked) or len(set(asked)) < len(asked):
        said = f"[{','.join(map(str, asked))}]" if isinstance(track, list | tuple) else track
        raise UserError(f"track={said} must be {', '.join(NAMES)}, a list of several of them, or null for none.")
    if not ranks.first():
        return Tracker()
    found: list[Tracker] = []
    for name in asked:
        if name == "tensorboard":
            from diffusion.records.tensorboard import TensorBoard

            found.append(TensorBoard(folder, first_step))
        elif name == "wandb":
            from diffusion.records.weights_and_biases import WeightsAndBiases

            found.append(WeightsAndBiases(folder, group))
        else:
            from diffusion.records.mlflow_store import MLflow

            found.append(MLflow(folder, group))
    return found[0] if len(found) == 1 else Several(found)


def asked_here(track: Any, command: Any, folder: Path) -> Any:
    """What a checkpoint says of where its run is shown, but for places that nobody asked for on this machine.

    Its run may be a stranger's, and those places are sent to by one's own account.

    Args:
        track: of the checkpoint.
        command: of the command that goes on with it.
        folder: of the run, which knows the places that it was shown in before.
    """
    names, asked = (each if isinstance(each, list) else [each] for each in (track, command))
    known = read_metrics(folder / IDS) or {}
    out = [name for name in names if name in ("wandb", "mlflow") and name not in asked and name not in known]
    if not out:
        return track
    log.info(
        "The checkpoint asks for track=%s, which this command does not: left out; if you want it, add track=%s.",
        *2 * [out[0] if len(out) == 1 else f"[{','.join(out)}]"],
    )
    return [name for name in names if name not in out] or "tensorboard"
