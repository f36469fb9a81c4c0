"""Whether a run can measure what it is to judge itself by: keep, keep_by and patience of the training."""

from typing import Any

from diffusion.config.settings import Config
from diffusion.evaluation.ranking import HELD_OUT_LOSS, badness
from diffusion.system import ranks
from diffusion.system.errors import UserError


def check_measured(trainer: Any, score: Config, few: int) -> None:
    """Raise `UserError` where the config group `score`, or `few` images of a split, leave it out."""
    best, name = trainer.state.best, trainer.plan.keep_by
    setting, least = ("held_out", 1) if name == HELD_OUT_LOSS else ("n", 2)
    what = f"training.{best.asked} needs {name}"
    if best.asked and not score[setting]:
        raise UserError(f"{what}, and score.{setting}=0 leaves it out: add score.{setting}=500, for example.")
    if best.asked and few < least:
        raise UserError(f"{what}, which takes at least {least} test images: leave it out.")


def check_measurable(trainer: Any) -> None:
    """Raise `UserError` where even real images have no such score, or only those of a class have and none is drawn."""
    monitor, best, name = trainer.monitor, trainer.state.best, trainer.plan.keep_by
    if not best.asked or name == HELD_OUT_LOSS:
        return
    real = ranks.first_alone(lambda: monitor.scorer.real(monitor.n))
    no_class = name in ("score/accuracy", "score/diversity") and not monitor.model.guidance.conditional
    known = {"repeated": 0.0, **real, "real": real}  # how many images repeat another is always known
    if no_class or (real["n"] == monitor.n and badness(name, known) is None):
        of = "images without a class" if no_class else f"{monitor.n} images"
        raise UserError(
            f"training.{best.asked} needs {name}, which {of} of data={trainer.parts.data.name} do not have: choose "
            "another training.keep_by, such as score/fid."
        )
