"""TensorBoard: the curves, grids, configuration and one HPARAMS row of a run, all through one writer."""

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams


class Tracker:
    """Writes a run's events into its folder.

    Args:
        folder: of the run.
        first_step: of this start; what an interrupted run wrote from there on is discarded by TensorBoard.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        self.folder, self.first_step = folder, first_step
        self.opened: SummaryWriter | None = None

    @property
    def writer(self) -> SummaryWriter:
        """The writer, opened by the first thing that is written: a run that is refused leaves no file."""
        if self.opened is None:
            self.opened = SummaryWriter(str(self.folder), purge_step=self.first_step or None)
        return self.opened

    def scalars(self, values: dict[str, float | None], step: int) -> None:
        """Curves by tag, for example {"train/loss": 0.1}; None is left out."""
        for tag, value in values.items():
            if value is not None:
                self.writer.add_scalar(tag, value, step)

    def image(self, tag: str, pixels: Tensor, step: int) -> None:
        """One picture, uint8 (C, H, W)."""
        self.writer.add_image(tag, pixels, step)

    def text(self, tag: str, text: str) -> None:
        """A text, shown as it is."""
        self.writer.add_text(tag, "".join(f"    {line}\n" for line in text.splitlines()))

    def hyperparameters(self, settings: dict[str, Any], metrics: list[str]) -> None:
        """The run's row in the HPARAMS tab. The tab shows the keys of the first run alone, so pass the same always."""
        plain = {k: v if isinstance(v, bool | int | float | str) else str(v) for k, v in settings.items()}
        writer = self.writer.file_writer
        assert writer is not None
        for summary in hparams(plain, dict.fromkeys(metrics)):
            writer.add_summary(summary)

    def close(self) -> None:
        """Flush and close the file."""
        if self.opened is not None:
            self.opened.close()
