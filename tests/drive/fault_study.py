"""Studies to which something happens: drivers that are processes of their own, trainings that fail, full disks."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fake_study import LR, MAX_ITER, PERIOD, FakeTraining, journal_operations, open_record, score
from patience import PATIENCE_S, wait_until

from raytune_m2f.config import Config
from raytune_m2f.engines.native import NativeEngine
from raytune_m2f.errors import CheckpointError, RaytuneM2FError
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.status import StudyStatus, study_status
from raytune_m2f.training.reports import TrialContext, read_reports
from raytune_m2f.training.worker import train_trial

# The decay multiplies each weight by about -400 a step: a float32 is infinite after 15 of them.
HUGE_RATE = {
    "SOLVER.BASE_LR": 10.0, "SOLVER.WEIGHT_DECAY": 10.0, "SOLVER.LR_SCALING": "linear", "SOLVER.REFERENCE_BATCH": 1,
    "SOLVER.MAX_ITER": 60, "TEST.EVAL_PERIOD": 60,
}  # fmt: skip

# The command line itself, with a scripted training of 0.3 s a report in place of the network.
DRIVER = """
import functools, sys
sys.path.insert(0, {tests!r})
import fake_study, ray
ray.cloudpickle.register_pickle_by_value(fake_study)
from raytune_m2f.cli.main import app
from raytune_m2f.drive import runner
runner.run_study = functools.partial(runner.run_study, trial_function=fake_study.FakeTraining(seconds=0.3))
app(["resume", sys.argv[1]])
"""


def start_driver(study: StudyDirectory) -> subprocess.Popen[str]:
    """`raytune-m2f resume` in a process group of its own, as a shell would start it."""
    code = DRIVER.format(tests=str(Path(__file__).parents[1]))
    driver = subprocess.Popen(
        [sys.executable, "-c", code, str(study.root)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "COLUMNS": "400"},
    )
    atexit.register(driver.kill)  # if a test fails before it has ended
    return driver


def end_of(driver: subprocess.Popen[str]) -> str:
    """Wait until the driver has ended; what it said on stderr."""
    try:
        return driver.communicate(timeout=PATIENCE_S)[1]
    except subprocess.TimeoutExpired:
        os.killpg(driver.pid, signal.SIGKILL)
        pytest.fail(f"the driver did not end: {driver.communicate()[1]}")


def reports(study: StudyDirectory) -> int:
    """Reports on disk, over all trials."""
    return sum(reports_of(study, int(folder.name)) for folder in study.trials.glob("*"))


def wait_for_reports(study: StudyDirectory, count: int) -> None:
    wait_until(lambda: reports(study) >= count, f"{count} reports")


def reports_of(study: StudyDirectory, number: int) -> int:
    return len(read_reports(study.trial(number)))


def is_driven(study: StudyDirectory) -> bool:
    with suppress(RaytuneM2FError):  # it has no record yet
        return study_status(study.root).driver is not None
    return False


def is_alive(process: int) -> bool:
    with suppress(OSError):
        return ") Z " not in Path(f"/proc/{process}/stat").read_text()
    return False


def processes(study: StudyDirectory) -> set[int]:
    """Of all trials that `FakeTraining` ever began."""
    return {int(line.split()[1]) for file in study.trials.glob("*/starts") for line in file.read_text().splitlines()}


def states(status: StudyStatus) -> list[str]:
    return [trial.state for trial in status.trials]


def check_curves(study: StudyDirectory) -> None:
    """Each trial has every report of its scripted curve up to its last one, in the record and on disk, once."""
    for trial in open_record(study).trials():
        steps = sorted(trial.intermediate_values)
        assert steps == list(range(PERIOD, MAX_ITER + 1, PERIOD))[: len(steps)]
        assert trial.intermediate_values == {i: pytest.approx(score(trial.params[LR], i)) for i in steps}
        assert [report["iteration"] for report in read_reports(study.trial(trial.number))] == steps
    written = [(log["trial_id"], log["step"]) for log in journal_operations(study) if log["op_code"] == 7]
    assert len(written) == len(set(written))


@dataclass(frozen=True)
class Traced:
    """A training that leaves the id of its process in `pid_<rank>`, so that somebody can kill it."""

    training: Callable[[Config, TrialContext], Any] = train_trial

    def __call__(self, config: Config, context: TrialContext) -> Any:
        (context.output_dir / f"pid_{context.rank}").write_text(str(os.getpid()))
        return self.training(config, context)


class BrokenEvaluator:
    """Stands for an evaluator with a mistake in it."""

    def reset(self) -> None:
        pass

    def process(self, *_: object) -> None:
        raise IndexError("an evaluator's own mistake")


@dataclass(frozen=True)
class FaultyTraining:
    """`train_trial`, to which something happens in the trials named.

    Attributes:
        rate: the trial whose weights grow without bound, so that its loss is soon not finite.
        evaluator: the trial whose evaluator raises.
    """

    rate: str = ""
    evaluator: str = ""

    def __call__(self, config: Config, context: TrialContext) -> Any:
        if context.output_dir.name == self.rate:
            return train_trial(config.with_values(HUGE_RATE, source="test"), context)
        if context.output_dir.name == self.evaluator:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(NativeEngine, "evaluator", lambda *_, **__: BrokenEvaluator())
                return train_trial(config, context)
        return train_trial(config, context)


@dataclass(frozen=True)
class NoRoom:
    """A scripted training whose checkpoints cannot be written as long as the file `full` is there."""

    full: str

    def __call__(self, config: Config, context: TrialContext) -> Any:
        if Path(self.full).exists():
            raise CheckpointError("cannot write the checkpoint iter_0000010.pth: No space left on device")
        return FakeTraining()(config, context)


def fill(disk: Path) -> Path:
    """Take all the room that is left on a file system; the file that takes it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for block in (2**20, 2**9):
            with suppress(OSError):
                while file.write(bytes(block)):
                    pass
    return filler
