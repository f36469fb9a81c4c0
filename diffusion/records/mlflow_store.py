"""MLflow, https://mlflow.org: what a run shows, on the server that MLFLOW_TRACKING_URI names, or in its own folder."""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from torch import Tensor

from diffusion.records.tracking import Service
from diffusion.system.errors import UserError, brief

log = logging.getLogger("diffusion")
EXPERIMENT = "simple-diffusion"  # where MLFLOW_EXPERIMENT_NAME names none
LONGEST = 500  # signs of a setting's value, which is more than MLflow's interface shows


class MLflow(Service):
    """A run there. Without MLFLOW_TRACKING_URI it lies in the run's folder, as mlflow.db and mlflow_artifacts/.

    Args:
        folder: of the run, which keeps the id.
        group: name of the sweep that the run is part of, its tag `sweep`.

    Raises:
        UserError: the package is missing.
    """

    setting, title, package = "mlflow", "MLflow", "mlflow"

    def __init__(self, folder: Path, group: str | None = None) -> None:
        for name, value in (
            ("DISABLE_TELEMETRY", "true"),
            ("LOGGING_LEVEL", "WARNING"),
            ("HTTP_REQUEST_MAX_RETRIES", "1"),
            ("HTTP_REQUEST_TIMEOUT", "20"),  # seconds, in which training waits
        ):
            os.environ.setdefault(f"MLFLOW_{name}", value)
        super().__init__(folder, group)
        self.client: Any = None

    def begin(self) -> None:
        for name in ("alembic", "urllib3"):  # which tell how a database is made, and of every try
            logging.getLogger(name).setLevel(logging.ERROR)
        given = os.environ.get("MLFLOW_TRACKING_URI")
        place = self.folder.resolve()
        try:
            from mlflow import MlflowClient

            self.client = MlflowClient(tracking_uri=given or f"sqlite:///{place / 'mlflow.db'}")
            name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or EXPERIMENT
            found = self.client.get_experiment_by_name(name)
            artifacts = None if given else (place / "mlflow_artifacts").as_uri()
            number = found.experiment_id if found else self.client.create_experiment(name, artifact_location=artifacts)
            self.run = self.earlier()
            if self.run is None:
                tags = {"sweep": self.group} if self.group else {}
                self.run = self.client.create_run(number, run_name=self.folder.name, tags=tags).info.run_id
        except Exception as error:  # of many kinds
            raise UserError(
                f"track=mlflow: {given or 'the store in the run folder'} cannot be opened ({brief(error)}): try again, "
                "give another MLFLOW_TRACKING_URI, or choose track=tensorboard."
            ) from error
        self.remember(self.run)
        log.info("MLflow: run %s in %s", self.run, given or f"sqlite:///{place / 'mlflow.db'}")

    def earlier(self) -> str | None:
        """The run of an earlier start, marked as running again; None where this place has none."""
        from mlflow.exceptions import MlflowException

        if self.id is None:
            return None
        try:
            self.client.update_run(self.id, status="RUNNING")
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return None
        return self.id

    def scalars(self, values: dict[str, float | None], step: int) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        found = [Metric(tag, float(value), now, step) for tag, value in values.items() if value is not None]
        self.attempt(lambda: self.client.log_batch(self.run, metrics=found))

    def picture(self, tag: str, pixels: Tensor, step: int) -> None:
        array = pixels.permute(1, 2, 0).numpy()  # (H, W, C)
        self.attempt(lambda: self.client.log_image(self.run, array, key=tag, step=step))

    def text(self, tag: str, text: str) -> None:
        self.attempt(lambda: self.client.log_text(self.run, text, f"{tag}.txt"))

    def configuration(self, config: dict[str, Any]) -> None:
        """As MLflow's parameters, which no start can change again: what a resumed run changes becomes a tag."""
        from mlflow.entities import Param, RunTag

        def write() -> None:
            known = self.client.get_run(self.run).data.params
            values = {name: str(value)[:LONGEST] for name, value in flat(config).items()}
            params = [Param(name, value) for name, value in values.items() if name not in known]
            tags = [RunTag(name, value) for name, value in values.items() if known.get(name, value) != value]
            for start in range(0, max(len(params), 1), 100):  # the most that MLflow takes at once
                self.client.log_batch(self.run, params=params[start : start + 100], tags=tags if not start else [])

        self.attempt(write)

    def close(self) -> None:
        super().close()
        error = sys.exception()
        status = "KILLED" if isinstance(error, KeyboardInterrupt) else "FINISHED" if error is None else "FAILED"
        self.quiet_until = 0.0
        self.attempt(lambda: self.client.set_terminated(self.run, status))
        self.run = None


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Settings by their full names: {"a": {"b": 1}} → {"a.b": 1}."""
    found: dict[str, Any] = {}
    for name, value in config.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found
