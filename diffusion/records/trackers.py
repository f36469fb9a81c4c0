"""Where a run is shown, by the setting `track`; each place is imported when it is asked for.

tensorboard   events in the run's folder: tensorboard.py
wandb         Weights & Biases: weights_and_biases.py
mlflow        MLflow: mlflow_store.py
"""

from collections.abc import Sequence
from pathlib import Path

from diffusion.records.tracking import Several, Tracker
from diffusion.system import ranks
from diffusion.system.errors import UserError

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
