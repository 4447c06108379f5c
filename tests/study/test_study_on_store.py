"""A study on a store: what a kill at any request leaves, the lease, what is pulled and what is not."""

from __future__ import annotations

import itertools
import json
import os
import random
import time
from pathlib import Path

import pytest
from fake_processes import FakeProcesses, curve, drive
from fake_store import ADDRESS, FakeStore, RemoteProcesses, live_on_store
from fake_study import MAX_ITER, PERIOD, config, create_study, laid_out, open_record, settings, space
from optuna.trial import TrialState
from patience import wait_until

from raytune_m2f import Study
from raytune_m2f.errors import CheckpointError, InputError, StudyError
from raytune_m2f.storage.lease import STALE_S, Lease
from raytune_m2f.storage.object_store import ObjectStore
from raytune_m2f.study.directory import LOCK, StudyDirectory
from raytune_m2f.study.layout import NewStudy
from raytune_m2f.study.points import knowledge_of
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import EarlyStopping, StudySettings
from raytune_m2f.study.status import study_status

GRACE = {"grace_iterations": 20, "reduction_factor": 2}
NO_STOPPING = EarlyStopping(method="none")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeStore:
    return FakeStore(tmp_path / "store", monkeypatch)


def new_study(asked: StudySettings | None = None) -> StudyDirectory:
    return create_study(ADDRESS, config(), space(), asked or settings(trials=3, early_stopping=NO_STOPPING))


def check_curves(record: Record) -> None:
    """Every trial has ended or waits, and has every report of its own up to its last one."""
    for trial in record.trials():
        start = trial.user_attrs.get("start", 0)
        own = [step for step in sorted(trial.intermediate_values) if step > start]
        assert own == list(range(start + PERIOD, (trial.last_step or 0) + 1, PERIOD))
        assert all(trial.intermediate_values[step] == curve(trial.number, step) for step in own)
        if trial.number in record.index.paused:
            continue
        assert trial.state == (TrialState.PRUNED if "stopped" in trial.user_attrs else TrialState.COMPLETE)
        assert trial.last_step == MAX_ITER or "stopped" in trial.user_attrs


# Kills


@pytest.mark.parametrize("method", ["asha", "promotion", "pbt"])
@pytest.mark.parametrize("seed", range(2))
def test_a_study_goes_on_as_if_its_drivers_were_not_killed(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch, seed: int, method: str
) -> None:
    new_study(settings(trials=6, early_stopping=EarlyStopping(method=method, **GRACE)))
    rng = random.Random(seed)
    live_on_store(seed, monkeypatch, iter(lambda: rng.randint(60, 200), 0))
    record = open_record(StudyDirectory.at(ADDRESS))
    assert record.index.started == len(record.trials()) == 6
    assert record.unfinished() == []
    check_curves(record)
    places = [trial.user_attrs["replaces"] for trial in record.trials() if "replaces" in trial.user_attrs]
    assert len(places) == len(set(places))
    goes_on = {f"trials/{number:04d}" for number in record.index.paused}
    assert {name.rpartition("/checkpoints/iter_")[0] for name in store.files() if "/iter_" in name} == goes_on


@pytest.mark.parametrize(
    "request_", [pytest.param(count, marks=[pytest.mark.slow] if count % 10 else []) for count in range(110)]
)
def test_one_kill_at_any_request(store: FakeStore, monkeypatch: pytest.MonkeyPatch, request_: int) -> None:
    new_study(settings(trials=2, early_stopping=NO_STOPPING))
    live_on_store(0, monkeypatch, itertools.chain([request_], itertools.repeat(10**6)))
    record = open_record(StudyDirectory.at(ADDRESS))
    assert [trial.state for trial in record.trials()] == [TrialState.COMPLETE] * 2
    check_curves(record)


def test_what_is_left_is_what_a_study_on_disk_leaves(store: FakeStore, tmp_path: Path) -> None:
    asked = settings(trials=4, early_stopping=EarlyStopping(method="asha", **GRACE), keep_checkpoints=2)
    on_disk = create_study(tmp_path / "study", config(), space(), asked)
    new_study(asked)
    for study, processes in ((on_disk, FakeProcesses), (StudyDirectory.at(ADDRESS), RemoteProcesses)):
        driver = drive(study)
        processes(driver, random.Random(0)).run()
        study.commit()
    left = [name for name in store.files() if name.startswith("trials/") and not name.endswith("/stop")]
    files = (path.relative_to(on_disk.root).as_posix() for path in on_disk.trials.rglob("*") if path.is_file())
    assert left == sorted(name for name in files if not name.endswith("/stop"))
    there, here = (open_record(study) for study in (StudyDirectory.at(ADDRESS), on_disk))
    for one, other in zip(there.trials(), here.trials(), strict=True):
        assert one.params == other.params
        assert one.intermediate_values == other.intermediate_values
        assert one.state == other.state


# What the user sees


def test_addresses_are_shown_and_a_copy_is_not(store: FakeStore) -> None:
    study = new_study()
    RemoteProcesses(drive(StudyDirectory.at(ADDRESS)), random.Random(0)).run()
    drive(StudyDirectory.at(ADDRESS)).record.directory.commit()
    status = study_status(ADDRESS)
    assert status.directory == str(study) == ADDRESS
    best = status.trial_to_export()
    assert best.checkpoint == f"{ADDRESS}/trials/000{best.number}/checkpoints/best.pth"
    assert best.directory == f"{ADDRESS}/trials/000{best.number}"
    record = open_record(StudyDirectory.at(ADDRESS))
    assert record.trial(best.number).user_attrs["checkpoint"] == best.checkpoint
    assert "raytune_m2f_" not in (store.root / "bucket/study/optuna.journal").read_text()


def test_all_that_is_asked_of_a_study_is_read_from_one_working_copy(store: FakeStore) -> None:
    driver = drive(new_study())
    driver.next_trial()
    driver.record.directory.commit()
    store.opened.clear()
    study = Study(ADDRESS)
    assert len(study.trials) == 1
    driver.next_trial()
    driver.record.directory.commit()
    assert len(study.trials) == 2
    assert study.best is None
    assert store.opened == [ADDRESS]


def test_a_second_study_at_an_address_is_refused(store: FakeStore) -> None:
    study = new_study()
    with study.locked():
        open_record(study).ask()
    with pytest.raises(StudyError, match=f"{ADDRESS} is a study already.*resume {ADDRESS}"):
        new_study()


def test_other_things_at_an_address_are_left_alone(store: FakeStore) -> None:
    (store.root / "bucket/study/thesis").mkdir(parents=True)
    with pytest.raises(StudyError, match="is not empty and no study"):
        new_study()


def test_a_study_that_was_killed_while_it_was_laid_out_is_laid_out_anew(store: FakeStore) -> None:
    (store.root / "bucket/study").mkdir()
    (store.root / "bucket/study/optuna.journal").write_text("of the one before\n")
    new_study()
    assert store.files() == ["study.yaml"]


def test_what_is_no_study_is_named(store: FakeStore) -> None:
    with pytest.raises(StudyError, match=f"{ADDRESS} is no study directory"):
        study_status(ADDRESS)
    with pytest.raises(InputError, match="there is no bucket 'other'"):
        study_status("s3://other/study")


def test_a_store_that_fails_is_one_error(store: FakeStore) -> None:
    new_study()
    study = StudyDirectory.at(ADDRESS)
    driver = drive(study)
    driver.next_trial()
    fault = OSError("AWS Error NETWORK_CONNECTION during PutObject operation: curlCode: 7")
    store.files_there.faults = itertools.repeat(fault)
    with pytest.raises(CheckpointError, match=r"optuna\.journal: AWS Error NETWORK_CONNECTION.*raytune-m2f resume"):
        driver.next_trial()
    store.files_there.faults = iter(())
    assert len(open_record(StudyDirectory.at(ADDRESS)).trials(TrialState.RUNNING)) == 1


# Beside the journal


def test_with_a_database_no_journal_is_pushed(store: FakeStore, tmp_path: Path) -> None:
    new_study(settings(trials=2, early_stopping=NO_STOPPING, optuna_storage=f"sqlite:///{tmp_path}/optuna.db"))
    for _ in range(2):
        driver = drive(StudyDirectory.at(ADDRESS))
        RemoteProcesses(driver, random.Random(0)).run()
        driver.record.directory.commit()
    assert [trial.state for trial in study_status(ADDRESS).trials] == ["complete"] * 2
    assert "optuna.journal" not in store.files()


@pytest.mark.usefixtures("store")
def test_a_new_study_learns_from_one_on_a_store() -> None:
    new_study()
    driver = drive(StudyDirectory.at(ADDRESS))
    RemoteProcesses(driver, random.Random(0)).run()
    driver.record.directory.commit()
    points, prior = knowledge_of([ADDRESS], config(), space(), settings())
    assert (len(points), len(prior)) == (1, 3)
    assert {trial.user_attrs["prior"] for trial in prior} == {f"trial {number} of {ADDRESS}" for number in range(3)}


def test_leaders_are_trained_again_beside_their_study(store: FakeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    new_study()
    driver = drive(StudyDirectory.at(ADDRESS))
    RemoteProcesses(driver, random.Random(0)).run()
    driver.record.directory.commit()

    def run(target: StudyDirectory | NewStudy, **_: object) -> None:
        again = drive(laid_out(target))
        RemoteProcesses(again, random.Random(0), address=str(again.record.directory)).run()
        again.record.directory.commit()

    monkeypatch.setattr("raytune_m2f.drive.runner.run_study", run)
    found = Study(ADDRESS).confirm(top=2, seeds=1)
    assert len(found.leaders) == 2
    assert {"confirm/study.yaml", "confirm/optuna.journal"} <= set(store.files())


# The lease


def at_store(stale_s: float = STALE_S) -> StudyDirectory:
    """The study, whose lease is renewed often: who waits for a sign of life has it soon, and it may still come late."""
    study = StudyDirectory.at(ADDRESS)
    study.lock = Lease(ObjectStore.at(ADDRESS), LOCK, renew_s=0.1, stale_s=stale_s)
    return study


def test_a_second_driver_is_refused_with_the_name_of_the_first(store: FakeStore) -> None:
    new_study()
    first, second = at_store(), at_store()
    with first.locked():
        assert f"process {os.getpid()} on" in (second.driver() or "")
        with pytest.raises(StudyError, match=f"another driver \\(process {os.getpid()} on "), second.locked():
            pass
    assert second.driver() is None
    with second.locked():
        pass
    assert LOCK not in store.files()


@pytest.mark.usefixtures("store")
def test_a_lease_that_nobody_renews_is_taken() -> None:
    new_study()
    ObjectStore.at(ADDRESS).write(LOCK, json.dumps({"holder": "one that was killed", "token": "theirs"}))
    study = at_store(stale_s=1.0)
    assert study.driver() == "one that was killed"
    with study.locked():
        assert f"process {os.getpid()}" in (study.driver() or "")


def drive_while_another_takes(study: StudyDirectory, store: FakeStore) -> None:
    with study.locked():
        driver = drive(study)
        driver.next_trial()
        (store.root / "bucket/study" / LOCK).write_text(json.dumps({"holder": "the other", "token": "theirs"}))
        lease = study.lock
        assert isinstance(lease, Lease)
        wait_until(lambda: lease.lost_to is not None, "the next renewal")
        driver.next_trial()


def test_a_driver_whose_study_was_taken_stops_and_writes_nothing_more(store: FakeStore) -> None:
    new_study()
    study = at_store()
    with pytest.raises(StudyError, match=r"was taken over by another driver \(the other"):
        drive_while_another_takes(study, store)
    assert "the other" in (store.root / "bucket/study" / LOCK).read_text()
    assert len(open_record(StudyDirectory.at(ADDRESS)).trials(TrialState.RUNNING)) == 1


def test_of_two_that_take_a_lease_at_once_the_last_one_has_it(
    store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    new_study()
    there = ObjectStore.at(ADDRESS)
    theirs = json.dumps({"holder": "the other", "token": "theirs"})
    monkeypatch.setattr(time, "sleep", lambda _: there.write(LOCK, theirs))
    with pytest.raises(StudyError, match=r"another driver \(the other\)"), Lease(there, LOCK).held("this one"):
        pass
