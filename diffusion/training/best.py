"""The best checkpoints of a run by one of its scores, and for how long there has been no better one.

best.pt is the best of all. With training.keep=3 the next two lie beside it, named by their steps: best_step1200.pt. A
new one is written, and the run remembers it, before those that fall out are removed: a full disk or a kill costs none.
"""

import logging
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from diffusion.data.folders import number_of
from diffusion.evaluation.ranking import FID, HELD_OUT_LOSS, NAMES, direction
from diffusion.records import checkpoint
from diffusion.system.errors import UserError
from diffusion.training.plan import Plan, due

log = logging.getLogger("diffusion")


class Kept(NamedTuple):
    """A checkpoint that is kept: its step, its score, and a number that is the smaller, the better that score is."""

    step: int
    value: float
    badness: float


@dataclass
class Best:
    """Which checkpoints are kept, and when a run has waited long enough for a better one.

    Args:
        plan: by which score (`keep_by`), how many (`keep`), and how long to wait (`patience`).
        folder: of the run.

    Attributes:
        kept: the best so far, the best first; of several processes the same in all.
        waited: how often the score was measured since the first of them.
        judged: the step whose score was measured last, 0 before the first; None where that is not known.
        told: whether it was said that there is no such score.

    Raises:
        ValueError: the score is none, or the plan never measures it on the way.
    """

    plan: Plan
    folder: Path
    kept: list[Kept] = field(default_factory=list)
    waited: int = 0
    judged: int | None = 0
    told: bool = False

    def __post_init__(self) -> None:
        plan, name = self.plan, self.plan.keep_by
        if name not in NAMES:
            raise ValueError(f"keep_by={name} is no score of a run: choose from {', '.join(NAMES)}")
        if self.asked and not getattr(plan, self.every):
            raise ValueError(
                f"{self.asked} needs {name} to be measured on the way, which training.{self.every}=0 leaves to the "
                f"end: add training.{self.every}=500, for example"
            )

    @property
    def asked(self) -> str:
        """What of the plan asks for more than the one checkpoint of the lowest FID; empty where nothing does."""
        plan = self.plan
        if plan.keep_by != FID:
            return f"keep_by={plan.keep_by}"
        return f"keep={plan.keep}" if plan.keep > 1 else f"patience={plan.patience}" if plan.patience else ""

    @property
    def every(self) -> str:
        """The setting of the plan that says how often the score is measured."""
        return "preview_every" if self.plan.keep_by == HELD_OUT_LOSS else "evaluate_every"

    def missed(self, step: int) -> bool:
        """Whether the score of a step was due, and a stop came before it was measured."""
        measured = self.judged is None or self.judged == step
        return bool(self.asked) and not measured and due(getattr(self.plan, self.every), step)

    @property
    def exhausted(self) -> bool:
        """Whether the run ends here."""
        return 0 < (self.plan.patience or 0) <= self.waited

    def why(self) -> str:
        """Why it ends, in words."""
        best, name = self.kept[0], self.plan.keep_by
        return (
            f"{name} has not been better than the {best.value:.4g} of step {best.step} ({direction(name)}) in "
            f"{number_of(self.waited, 'measurement')} since, and training.patience={self.plan.patience}"
        )

    def with_new(self, new: Kept) -> list[Kept]:
        """The kept ones and a new one in its place, which is after its equals; also those that fall out."""
        return sorted([*self.kept, new], key=lambda each: each.badness)  # keeps the order of equals

    def missing(self) -> None:
        """Say once that the score could not be measured."""
        if self.asked and not self.told:
            self.told = True
            log.warning(
                "training.%s: %s could not be measured, so nothing is kept by it.", self.asked, self.plan.keep_by
            )

    def forget(self) -> None:
        """Begin anew: scores of another protocol do not compare."""
        self.kept, self.waited, self.judged = [], 0, None

    # -------------------------------------------------------------------------------------- what a run remembers

    def state_dict(self) -> dict[str, Any]:
        """For a checkpoint; of a run that ends by its patience, that it has ended."""
        found: dict[str, Any] = {"best": self.kept[0].value if self.kept else None}
        if self.asked:
            rows = [list(each) for each in self.kept[: self.plan.keep]]
            found["kept"] = {"by": self.plan.keep_by, "best": rows, "waited": self.waited, "judged": self.judged}
        return {**found, "ended": True} if self.exhausted else found

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore what `state_dict` returned, but what was measured by another score, or is gone from the folder."""
        self.forget()
        saved = state.get("kept") or {"by": FID, "best": [], "waited": 0}
        if saved["by"] != self.plan.keep_by:
            return
        judged = saved.get("judged")
        self.judged = None if judged is None else int(judged)
        if state["best"] is None:
            return
        rows = saved["best"] or [[self.step_of_best() if self.asked else 0, state["best"], state["best"]]]
        kept = [Kept(int(step), float(value), float(badness)) for step, value, badness in rows]
        if any(not -1 <= each.step < 2**62 for each in kept):
            raise ValueError("one of its best checkpoints is of no step")
        self.kept = [each for each in kept if not self.asked or self.place(each.step) is not None]
        self.waited = int(saved["waited"]) if self.kept else 0

    # ------------------------------------------------------------------------------------------------- its files

    def step_of_best(self) -> int:
        """The step of best.pt; −1 where there is none that is whole."""
        with suppress(UserError):
            return int(checkpoint.read(self.folder / checkpoint.BEST)["step"])
        return -1

    def place(self, step: int) -> Path | None:
        """The file of a step; None where there is none."""
        path = self.folder / checkpoint.best_of(step)
        return path if path.exists() else self.folder / checkpoint.BEST if self.step_of_best() == step else None

    def write(self, step: int, first: bool, state: dict[str, Any]) -> None:
        """Write a checkpoint, as the best or as one of the next ones; the best so far is kept until it falls out."""
        best, linked = self.folder / checkpoint.BEST, None
        before = self.step_of_best() if first and self.plan.keep > 1 else -1
        if before not in (-1, step):
            linked = self.folder / checkpoint.best_of(before)
            checkpoint.give_name(best, linked)
        try:
            checkpoint.save(best if first else self.folder / checkpoint.best_of(step), state)
        except UserError:
            if linked is not None:
                linked.unlink(missing_ok=True)
            raise

    def remove(self, fallen: Sequence[Kept]) -> None:
        """Remove the files of checkpoints that are no longer kept; none that this run did not write."""
        for each in fallen:
            path = self.folder / checkpoint.best_of(each.step)
            if not path.exists():
                continue
            try:
                if checkpoint.read(path)["step"] != each.step:
                    raise UserError(f"it is not of step {each.step}")
                path.unlink()
            except (OSError, UserError) as error:
                log.warning("%s is no longer among the best, but stays: %s.", path, str(error).removesuffix("."))
