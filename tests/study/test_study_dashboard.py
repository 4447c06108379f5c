"""What optuna-dashboard shows of a study while it runs: every state, every report, every attribute."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from wsgiref.util import setup_testing_defaults

import pytest
from fake_study import LR, leave_reports, new_study, open_record, report, settings

from raytune_m2f.errors import DatasetError
from raytune_m2f.study.record import Record
from raytune_m2f.study.record.journal import Journal
from raytune_m2f.study.settings import EarlyStopping
from raytune_m2f.training.trial_dir import write_failure

dashboard = pytest.importorskip("optuna_dashboard")


def get(application: Any, path: str) -> Any:
    """The answer of the dashboard's own API, without a server."""
    environ: dict[str, Any] = {"PATH_INFO": path, "QUERY_STRING": "after=0"}
    setup_testing_defaults(environ)
    status: list[str] = []
    body = b"".join(application(environ, lambda line, headers, error=None: status.append(line)))
    assert status == ["200 OK"], body
    return json.loads(body)


def run_to(record: Record, number: int, *values: float) -> None:
    for i, value in enumerate(values):
        told = {**report(10 * (i + 1), value), "effective_lr": 5e-5, "micro_batch": 4, "host": "node7"}
        leave_reports(record.directory.trial(number), {10 * (i + 1): value})
        record.absorb(number, told)


def test_every_state_of_a_trial_is_shown(tmp_path: Path) -> None:
    study = new_study(tmp_path, settings(trials=9, early_stopping=EarlyStopping(method="promotion")))
    record = open_record(study)
    whole, failed, running, paused = (record.ask() for _ in range(4))
    record.note(record.trial(whole), "origin", "config")  # it is never paused
    record.note(record.trial(whole), "gpus", 2.0)
    run_to(record, whole, *[float(i) for i in range(8)])
    record.settle(whole, ended=True)
    stopped = record.ask()
    record.note(record.trial(stopped), "rung", 10)  # it was let through there
    run_to(record, stopped, 1.0)
    (study.trial(stopped) / "stop").touch()  # by a person
    record.settle(stopped, ended=True)
    study.trial(failed).mkdir()
    write_failure(study.trial(failed), DatasetError("annotation 7 has label 9"))
    record.settle(failed, ended=True)
    run_to(record, paused, 0.5)
    record.enqueue([("earlier", {LR: 1e-3})])

    application = dashboard.wsgi(Journal.read(study.journal).storage(writable=False))
    (summary,) = get(application, "/api/studies")["study_summaries"]
    shown = get(application, f"/api/studies/{summary['study_id']}")["trials"]
    assert [trial["state"] for trial in shown] == ["Complete", "Fail", "Running", "Running", "Pruned", "Waiting"]
    assert shown[whole]["values"] == [7.0]
    assert [point["step"] for point in shown[whole]["intermediate_values"]] == list(range(10, 81, 10))
    told = {attribute["key"]: attribute["value"] for attribute in shown[whole]["user_attrs"]}
    assert told["gpu_seconds"] == "16.0"
    assert told["effective_lr"] == "5e-05"
    assert told["micro_batch"] == "4"
    assert told["host"] == "node7"
    assert told["best_iteration"] == "80"
    assert told["checkpoint"] == str(study.weights(whole))
    told = {attribute["key"]: attribute["value"] for attribute in shown[failed]["user_attrs"]}
    assert told["cause"] == "annotation 7 has label 9"
    assert set(told) >= {"error_type", "fingerprint", "log_tail"}
    assert [point["value"] for point in shown[paused]["intermediate_values"]] == [0.5]
    assert {attribute["key"]: attribute["value"] for attribute in shown[paused]["user_attrs"]}["paused"] == "10"
    assert shown[running]["intermediate_values"] == []
