"""TensorBoard: the curves, grids, configuration and one HPARAMS row of a run, all through one writer."""

import logging
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from diffusion.records.tracking import Tracker
from diffusion.system import ranks
from diffusion.system.errors import InUse, brief
from diffusion.system.files import keep_hold

log = logging.getLogger("diffusion")


class TensorBoard(Tracker):
    """Writes a run's events into its folder. Nobody loses a run over its curves: what cannot be written is left out.

    Args:
        first_step: of this start; what an interrupted run wrote from there on is discarded by TensorBoard.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        super().__init__()
        self.folder, self.first_step = folder, first_step
        self.opened: SummaryWriter | None = None
        self.file: Path | None = None  # that the writer writes to
        self.failed: int | None = None  # the last step at which nothing could be written

    @property
    def writer(self) -> SummaryWriter:
        """The writer, opened by the first thing that is written: a run that is refused leaves no file."""
        if self.opened is None:
            self.opened = SummaryWriter(str(self.folder), purge_step=self.first_step or None)
            name = getattr(getattr(self.opened.file_writer, "event_writer", None), "_file_name", None)
            self.file = None if name is None else Path(name)
        return self.opened

    def write(self, add: Callable[[SummaryWriter], object], step: int | None = None) -> None:
        """Let `add` write; where the file is gone a new one is begun, and where none can be had it is left out."""
        if not ranks.first() or (step is not None and step == self.failed):
            return
        try:
            if self.opened is not None and self.file is not None and not self.file.exists():
                keep_hold()  # the folder may be another run's by now
                log.warning("TensorBoard's file %s is gone: its curves go on in a new one.", self.file)
                self.reopen(step)
            add(self.writer)
        except OSError as error:  # also of the thread that writes, which then ends
            say = log.warning if self.failed is None else log.debug
            say("TensorBoard's curves cannot be written for now: %s (%s).", brief(error), self.folder)
            self.failed = step or 0
            self.reopen(step)

    def reopen(self, step: int | None) -> None:
        """Begin a new file, whose first step is `step`, with the next thing that is written."""
        before, self.opened = self.opened, None
        self.first_step = self.first_step if step is None else step
        with suppress(OSError):
            if before is not None:
                before.close()
        with suppress(OSError):
            for path in self.folder.glob(f"events.out.tfevents.*.{os.getpid()}.*"):
                if not path.stat().st_size:  # begun while the disk was full
                    path.unlink()

    def scalars(self, values: dict[str, float | None], step: int) -> None:
        for tag, value in values.items():
            if value is not None:
                self.write(partial(SummaryWriter.add_scalar, tag=tag, scalar_value=value, global_step=step), step)

    def picture(self, tag: str, pixels: Tensor, step: int) -> None:
        self.write(partial(SummaryWriter.add_image, tag=tag, img_tensor=pixels, global_step=step), step)

    def text(self, tag: str, text: str) -> None:
        shown = "".join(f"    {line}\n" for line in text.splitlines())
        self.write(partial(SummaryWriter.add_text, tag=tag, text_string=shown))

    def hyperparameters(self, settings: dict[str, Any], metrics: list[str]) -> None:
        """The run's row in the HPARAMS tab. The tab shows the keys of the first run alone, so pass the same always."""
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in settings.items()}
        for summary in hparams(plain, dict.fromkeys(metrics)):
            self.write(lambda writer, summary=summary: writer.file_writer.add_summary(summary))  # type: ignore

    def flush(self) -> None:
        self.write(SummaryWriter.flush)

    def close(self) -> None:
        with suppress(InUse):
            super().close()
        if self.opened is not None:
            with suppress(OSError):
                self.opened.close()
