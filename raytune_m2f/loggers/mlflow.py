"""MLflow: a run for each training, in an experiment that is called as the study (or as MLFLOW_EXPERIMENT_NAME says).

Where MLFLOW_TRACKING_URI names no server, the runs of a study are kept in mlflow.db in its directory.
"""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Mapping
from itertools import islice
from typing import Any

from raytune_m2f.loggers.names import TRACKING_URI
from raytune_m2f.loggers.open import LoggedRun

IDENTITY = "raytune_m2f.identity"
STEPS_OF = "seconds"
"""An entry of every report: the iterations of its history are those that a run has."""
AT_ONCE = 100
"""Parameters that MLflow takes in one call."""
FEWER_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}
"""A training does not wait minutes for a server that is down; unless the user says otherwise."""


class MlflowLogger:
    """Writes metrics by MLflow's client; an iteration that the run has already is not written again."""

    def __init__(self, run: LoggedRun) -> None:
        for name, value in (*FEWER_RETRIES.items(), ("MLFLOW_DISABLE_TELEMETRY", "true")):
            os.environ.setdefault(name, value)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of MLflow about what it uses
            from mlflow.tracking import MlflowClient

            uri = os.environ.get(TRACKING_URI) or f"sqlite:///{run.root.absolute() / 'mlflow.db'}"
            self._client = MlflowClient(uri)
            self._run = self._found(run) or self._begun(run)
            self._client.update_run(self._run, status="RUNNING")
            history = self._client.get_metric_history(self._run, STEPS_OF)
        self._known = {metric.step for metric in history}

    def _found(self, run: LoggedRun) -> str | None:
        runs = self._client.search_runs([self._experiment(run)], f"tags.`{IDENTITY}` = '{run.identity}'", max_results=1)
        return runs[0].info.run_id if runs else None

    def _begun(self, run: LoggedRun) -> str:
        from mlflow.entities import Param

        begun = self._client.create_run(self._experiment(run), tags={IDENTITY: run.identity}, run_name=run.name)
        parameters = iter([Param(key, str(value)) for key, value in run.config.items()])
        while part := list(islice(parameters, AT_ONCE)):
            self._client.log_batch(begun.info.run_id, params=part)
        found: str = begun.info.run_id
        return found

    def _experiment(self, run: LoggedRun) -> str:
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME") or run.study
        found: Any = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(self._client.create_experiment(name))
            except Exception:  # another trial was faster
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        return str(found.experiment_id)

    def write(self, iteration: int, numbers: Mapping[str, float]) -> None:
        from mlflow.entities import Metric

        if iteration in self._known:
            return
        now = int(1000 * time.time())
        metrics = [Metric(metric_name(name), number, now, iteration) for name, number in numbers.items()]
        self._client.log_batch(self._run, metrics=metrics)
        self._known.add(iteration)

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")


def metric_name(name: str) -> str:
    """A name as MLflow allows it: letters, digits, spaces and `_-./:`."""
    return re.sub(r"[^\w\-. /:]", "_", name)


def open_logger(run: LoggedRun) -> MlflowLogger:
    return MlflowLogger(run)
