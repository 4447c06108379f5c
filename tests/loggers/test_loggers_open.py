"""Reports reach each tool once, whatever breaks the run off: written for real, and read back as the tools read."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from raytune_m2f.config import Config
from raytune_m2f.loggers import open as loggers_open
from raytune_m2f.loggers.mlflow import metric_name
from raytune_m2f.loggers.names import LoggerName
from raytune_m2f.loggers.open import LoggedRun, Loggers, numbers_of
from raytune_m2f.training.reports import TrialContext, read_reports
from raytune_m2f.training.worker import train_trial


def reports(*iterations: int, gain: float = 0.0) -> list[dict[str, Any]]:
    return [
        {"iteration": step, "segm/AP": step / 2 + gain, "loss": 1 / step, "seconds": float(step), "host": "here"}
        for step in iterations
    ]


def loggers(folder: Path, *names: LoggerName) -> Loggers:
    folder.mkdir(parents=True, exist_ok=True)
    return Loggers(names, folder, address=str(folder), config={"SOLVER.BASE_LR": 1e-3, "SEED": 0})


def broken_off(folder: Path, name: LoggerName) -> None:
    """A run that was killed after its report at 30, went on from its checkpoint at 20, and ended at 40."""
    with loggers(folder, name) as first:
        first.write(reports(10))
        first.write(reports(10, 20))
        first.write(reports(10, 20, 30))
    with loggers(folder, name) as again:
        again.start = 20
        again.write(reports(10, 20))
        again.write(reports(10, 20, 30))
        again.write(reports(10, 20, 30, 40))
    with loggers(folder, name) as ended:  # which is asked to go on
        ended.start = 40
        ended.write(reports(10, 20, 30, 40))


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """What TensorBoard's own reader finds."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = EventAccumulator(str(folder))
    found.Reload()
    return {tag: [(e.step, e.value) for e in found.Scalars(tag)] for tag in found.Tags()["scalars"]}


def test_tensorboard_has_each_report_once(tmp_path: Path) -> None:
    broken_off(tmp_path, "tensorboard")
    found = scalars(tmp_path)
    assert found["segm/AP"] == [(10, 5.0), (20, 10.0), (30, 15.0), (40, 20.0)]
    assert "host" not in found


def test_a_training_that_goes_on_is_in_tensorboard_as_in_its_record(tiny_config: Config, tmp_path: Path) -> None:
    config = tiny_config.with_values({"LOGGERS": ["tensorboard"]})
    train_trial(config, TrialContext(tmp_path, report=lambda report: True))
    train_trial(config, TrialContext(tmp_path))
    steps, losses = zip(*scalars(tmp_path)["loss"], strict=True)
    assert steps == (2, 4)
    assert losses == pytest.approx([report["loss"] for report in read_reports(tmp_path)])


def test_only_rank_0_writes(tiny_config: Config, tmp_path: Path) -> None:
    assert not Loggers((), tmp_path, address="", config={})
    assert loggers(tmp_path, "tensorboard", "tensorboard")
    assert not list(tmp_path.iterdir()), "nothing before a first report"


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of MLflow, about SQLAlchemy
def test_mlflow_has_each_report_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_EXPERIMENT_NAME", raising=False)
    for trial in ("0000", "0001"):
        broken_off(tmp_path / "fruits/trials" / trial, "mlflow")
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{tmp_path}/fruits/mlflow.db")
    experiment = client.get_experiment_by_name("fruits")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    assert sorted(run.info.run_name for run in runs) == ["0000", "0001"]
    for run in runs:
        assert run.info.status == "FINISHED"
        assert run.data.params == {"SOLVER.BASE_LR": "0.001", "SEED": "0"}
        history = client.get_metric_history(run.info.run_id, "segm/AP")
        assert sorted((metric.step, metric.value) for metric in history) == [(10, 5), (20, 10), (30, 15), (40, 20)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_has_each_report_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    broken_off(tmp_path, "wandb")
    from wandb.proto.wandb_internal_pb2 import Record

    steps, ids = [], set()
    for file in sorted((tmp_path / "wandb").glob("offline-run-*/run-*.wandb")):
        for data in level_db_records(file.read_bytes()):
            record = Record.FromString(data)
            if record.HasField("run"):
                ids.add(record.run.run_id)
            if record.HasField("history"):
                row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                steps.append((int(row["_step"]), float(row["segm/AP"])))
    assert steps == [(10, 5.0), (20, 10.0), (30, 15.0), (40, 20.0)]
    assert len(ids) == 1


def level_db_records(content: bytes) -> Iterator[bytes]:
    """The records of a file of W&B: blocks of 32 KB as LevelDB's log has them, the first after 7 bytes of its own."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        if 2**15 - place % 2**15 < 7:  # the rest of a block is too small for a head
            place += 2**15 - place % 2**15
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


class Shaky:
    """A logger whose server is down at times."""

    down = True

    def __init__(self) -> None:
        self.written: list[int] = []

    def write(self, iteration: int, numbers: Mapping[str, float]) -> None:
        if Shaky.down:
            raise ConnectionError("no answer")
        self.written.append(iteration)

    def close(self, failed: bool) -> None:
        raise ConnectionError("no answer again")


def test_a_server_that_is_down_ends_no_training_and_gets_what_it_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shaky = Shaky()
    told: list[LoggedRun] = []

    def opened_for(run: LoggedRun) -> Shaky:
        told.append(run)
        return shaky

    monkeypatch.setattr(loggers_open, "import_module", lambda name: SimpleNamespace(open_logger=opened_for))
    caplog.set_level(logging.WARNING, "raytune_m2f")
    with loggers(tmp_path / "fruits/trials/0007", "mlflow") as opened:
        opened.write(reports(10))
        opened.write(reports(10, 20))
        Shaky.down = False
        opened.write(reports(10, 20, 30))
    Shaky.down = True
    assert shaky.written == [10, 20, 30]
    assert [message.split(":")[1].split()[0] for message in caplog.messages] == ["mlflow", "mlflow"]
    assert "no answer" in caplog.messages[0]
    assert (told[0].study, told[0].name, told[0].root) == ("fruits", "0007", tmp_path / "fruits")


def test_a_report_is_logged_as_its_finite_numbers() -> None:
    report = {"loss": 1, "segm/AP": float("nan"), "host": "here", "flag": True, "lr": 0.5, "none": None}
    assert numbers_of(report) == {"loss": 1.0, "lr": 0.5}
    assert metric_name("segm/AP-Café (ripe)") == "segm/AP-Café _ripe_"
