"""Weights & Biases, https://docs.wandb.ai: what a run shows, on a server, or by WANDB_MODE=offline in its folder."""

import html
import logging
import os
import shlex
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion.records.tracking import Service
from diffusion.system.errors import UserError, brief

log = logging.getLogger("diffusion")
PROJECT = "simple-diffusion"  # where WANDB_PROJECT names none
PATIENCE = 30.0  # seconds for the server to answer at the start


class WeightsAndBiases(Service):
    """A run there; what an interrupted run showed from the first step of this start on is shown again.

    Its curves go over the steps of the training. The environment variables of Weights & Biases hold, WANDB_PROJECT,
    WANDB_ENTITY and WANDB_MODE for example.

    Args:
        folder: of the run, which keeps the id and what is not sent yet.
        group: name of the sweep that the run is part of.

    Raises:
        UserError: the package is missing, or nobody is logged in.
    """

    setting, title, package = "wandb", "Weights & Biases", "wandb"

    def __init__(self, folder: Path, group: str | None = None) -> None:
        os.environ.setdefault("WANDB_SILENT", "true")
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # of the package's own, to its makers
        super().__init__(folder, group)
        import wandb

        self.sends = wandb.setup().settings.mode in ("online", "shared")
        if self.sends and not wandb.login(prompt=False, verify=False):
            raise UserError(
                "track=wandb: nobody is logged in to Weights & Biases here: type wandb login once, or set "
                "WANDB_API_KEY, or WANDB_MODE=offline to keep everything in the run's folder."
            )

    def begin(self) -> None:
        import wandb

        before = self.id
        try:
            self.run = wandb.init(
                project=os.environ.get("WANDB_PROJECT") or PROJECT,
                dir=str(self.folder),
                name=self.folder.name,
                group=self.group,
                id=before,
                resume="allow" if before and self.sends else None,
                reinit="finish_previous",
                settings=wandb.Settings(console="off", silent=True, init_timeout=PATIENCE),
            )
        except Exception as error:  # of many kinds
            raise UserError(
                f"track=wandb: Weights & Biases cannot be reached ({brief(error)}): try again, set WANDB_MODE=offline, "
                "or choose track=tensorboard."
            ) from error
        self.remember(self.run.id)
        self.run.define_metric("*", step_metric="step")
        kept = shlex.quote(os.path.relpath(Path(self.run.dir).parent))
        log.info("Weights & Biases: %s", self.run.url or f"offline; send it with: wandb sync {kept}")

    def scalars(self, values: dict[str, float | None], step: int) -> None:
        shown = {tag: value for tag, value in values.items() if value is not None}
        self.attempt(lambda: self.run.log({**shown, "step": step}))

    def picture(self, tag: str, pixels: Tensor, step: int) -> None:
        import wandb

        array = pixels.permute(1, 2, 0).numpy()  # (H, W, C)
        self.attempt(lambda: self.run.log({tag: wandb.Image(array), "step": step}))

    def text(self, tag: str, text: str) -> None:
        import wandb

        page = f"<pre>{html.escape(text)}</pre>"
        self.attempt(lambda: self.run.log({tag: wandb.Html(page, inject=False), "step": 0}))

    def configuration(self, config: dict[str, Any]) -> None:
        self.attempt(lambda: self.run.config.update(config, allow_val_change=True))

    def close(self) -> None:
        super().close()
        failed = sys.exception() is not None
        self.quiet_until = 0.0
        self.attempt(lambda: self.run.finish(exit_code=int(failed)))
        self.run = None
