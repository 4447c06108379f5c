"""Training over Ray Train workers, with a scripted trial; what the network does on two workers is tested elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import fake_study
import pytest
import ray
from fake_study import MAX_ITER, PERIOD, FakeTraining, config

from raytune_m2f.errors import DatasetError, InputError, RaytuneM2FError, TrainingError
from raytune_m2f.launch.job import TrialJob
from raytune_m2f.launch.place import Place
from raytune_m2f.launch.session import ray_session
from raytune_m2f.launch.workers import relay, train_on_workers
from raytune_m2f.progress import ProgressFile
from raytune_m2f.training.reports import SEGM_AP, Report

pytestmark = pytest.mark.filterwarnings("ignore:::ray")
ray.cloudpickle.register_pickle_by_value(fake_study)  # its folder is not on the workers' path


def test_no_cluster_at_the_address_is_the_users_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def refuse(**_: object) -> None:
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "init", refuse)
    with (
        pytest.raises(InputError, match=r"no Ray cluster answers at 'auto': nobody there"),
        ray_session("auto"),
    ):
        pass


def test_ray_that_does_not_start_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)

    def give_up(**_: object) -> None:
        raise Exception("The current node timed out during startup.")  # as Ray does on a machine with too much to do

    monkeypatch.setattr(ray, "init", give_up)
    with (
        pytest.raises(RaytuneM2FError, match=r"Ray does not start on this machine: The current.*overloaded"),
        ray_session(),
    ):
        pass


def job(training: FakeTraining, retries: int = 1) -> TrialJob:
    """Of two workers."""
    return TrialJob(config(), (SEGM_AP,), workers=(2, 2), crash_retries=retries, function=training)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")
class TestTwoWorkers:
    def test_reports_come_from_rank_0_and_a_stop_reaches_both(self, tmp_path: Path) -> None:
        seen: list[Report] = []

        def on_report(report: Report) -> bool:
            seen.append(report)
            return len(seen) == 3

        last = train_on_workers(job(FakeTraining()), Place.at(tmp_path), on_report)
        assert [report["iteration"] for report in seen] == [PERIOD, 2 * PERIOD, 3 * PERIOD]
        assert {report["rank"] for report in seen} == {0}
        assert last == seen[-1]
        for log in ("log.txt", "log_1.txt"):
            assert "the last words of the trial" in (tmp_path / log).read_text()
        worlds = [line.split()[2] for line in (tmp_path / "starts").read_text().splitlines()]
        assert worlds == ["2", "2"]
        assert not (tmp_path / ".placement_group").exists()

    def test_a_worker_that_dies_is_replaced(self, tmp_path: Path) -> None:
        seen: set[int] = set()

        def on_report(report: Report) -> bool:
            seen.add(report["iteration"])
            return False

        last = train_on_workers(job(FakeTraining(fault="die")), Place.at(tmp_path), on_report)
        assert last["iteration"] == MAX_ITER
        assert seen == set(range(PERIOD, MAX_ITER + 1, PERIOD))

    def test_an_error_of_ours_comes_as_it_is_and_is_not_retried(self, tmp_path: Path) -> None:
        with pytest.raises(DatasetError, match=r"^annotations\.json: annotation 7 has label 9"):
            train_on_workers(job(FakeTraining(fault="dataset"), retries=3), Place.at(tmp_path))
        assert len((tmp_path / "starts").read_text().splitlines()) == 2

    def test_any_other_error_comes_as_one_with_cause_and_log(self, tmp_path: Path) -> None:
        with pytest.raises(
            TrainingError, match=r"a worker failed: rank 1, process .*KeyError: 'no such thing'"
        ) as caught:
            train_on_workers(job(FakeTraining(fault="bug"), retries=0), Place.at(tmp_path))
        assert str(tmp_path / "log.txt") in str(caught.value)

    def test_an_error_of_the_listener_ends_the_training(self, tmp_path: Path) -> None:
        def refuse(report: Report) -> bool:
            raise TrainingError("nobody wants this")

        with pytest.raises(TrainingError, match="nobody wants this"):
            train_on_workers(job(FakeTraining()), Place.at(tmp_path), refuse)
        assert ray.available_resources()["CPU"] == 2.0


def test_who_follows_several_workers_hears_what_rank_0_leaves_and_nothing_older(tmp_path: Path) -> None:
    told: list[tuple[int, int, dict[str, Any]]] = []

    def progress(done: int, total: int, /, **facts: Any) -> None:
        told.append((done, total, facts))

    left = ProgressFile(tmp_path, interval=0)
    left(7, 9)  # by an earlier run
    tell = relay(tmp_path, progress)
    tell()
    assert not told
    left(1, 9, loss=2.5)
    tell()
    tell()  # nothing new
    assert told == [(1, 9, {"loss": 2.5})]
