"""A study without a network: a scripted learning curve in place of `train_trial`, and the settings around it."""

from __future__ import annotations

import json
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist

from raytune_m2f.config import Config
from raytune_m2f.errors import DatasetError
from raytune_m2f.progress import ProgressFile
from raytune_m2f.study import layout
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.layout import NewStudy
from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.record import Record
from raytune_m2f.study.settings import Budget, StudySettings
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.training import checkpoint
from raytune_m2f.training import reports as metrics
from raytune_m2f.training.reports import Report, TrialContext

LR = "SOLVER.BASE_LR"
MAX_ITER, PERIOD = 80, 10


def config() -> Config:
    return Config.from_dict({"SOLVER": {"MAX_ITER": MAX_ITER, "STEPS": []}, "TEST": {"EVAL_PERIOD": PERIOD}})


def space() -> SearchSpace:
    return SearchSpace.from_dict({LR: {"type": "loguniform", "low": 1e-5, "high": 1e-2}})


def settings(trials: int | None = 4, **others: Any) -> StudySettings:
    return StudySettings(budget=others.pop("budget", None) or Budget(trials=trials), **others)


def two_metrics(**others: Any) -> StudySettings:
    """Of several metrics, a stopped trial is told as complete."""
    return settings(metrics=("segm/AP", "-loss"), **others)


def create_study(
    directory: str | Path, config: Config, space: SearchSpace, settings: StudySettings, **others: Any
) -> StudyDirectory:
    """A study that is laid out, and does not run; arguments and errors are those of `layout.new_study`."""
    return layout.new_study(directory, config, space, settings, **others).create()


def new_study(root: Path, study_settings: StudySettings | None = None) -> StudyDirectory:
    return create_study(root / "study", config(), space(), study_settings or settings())


def laid_out(target: str | Path | StudyDirectory | NewStudy) -> StudyDirectory:
    """What `run_study` begins with, for who stands for it."""
    if not isinstance(target, NewStudy):
        return StudyDirectory.at(target)
    with target.laid_out() as study:
        return study


def open_record(study: StudyDirectory) -> Record:
    return Record(study, StudyPlan.load(study.plan_file))


def score(lr: float, iteration: int) -> float:
    """A curve that rises with the iterations towards a peak that is higher the nearer LR is to 1e-3."""
    return 50.0 * math.exp(-abs(math.log10(lr) + 3)) * iteration / MAX_ITER


def report(iteration: int, value: float) -> Report:
    return {"iteration": iteration, "segm/AP": value, "loss": 1.0, "lr": 1e-4, "seconds": iteration / 10}


def leave_reports(
    output_dir: Path, values: dict[int, float], *, keep: frozenset[int] = frozenset(), **others: Any
) -> None:
    """What a trial has on disk after these reports; a checkpoint holds its report, and nothing else."""
    folder = output_dir / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "best.pth").touch()
    for iteration, value in values.items():
        left = {**report(iteration, value), **others}
        whole = folder / ".whole"  # as a real one: there or not there
        whole.write_text(json.dumps(left))
        whole.replace(checkpoint.iteration_file(folder, iteration))
        checkpoint.keep_newest(folder, keep)
        metrics.append_report(output_dir, left)


def half_done_study(root: Path) -> StudyDirectory:
    """A complete trial, and one that is at 25 after its report at 10."""
    study = new_study(root, settings(trials=4))
    record = open_record(study)
    for end in (MAX_ITER, 10):
        number = record.ask()
        for iteration in range(10, end + 1, 10):
            leave_reports(study.trial(number), {iteration: 5.0})
            record.absorb(number, report(iteration, 5.0))
        if end == MAX_ITER:
            record.settle(number)
    ProgressFile(study.trial(1))(25, MAX_ITER, loss=31.25)
    record.note_session("driver", 21.0)
    return study


def newest_report(output_dir: Path) -> Report | None:
    """The report of the newest checkpoint, from which a trial goes on."""
    found = checkpoint.newest_first(output_dir / "checkpoints")
    return json.loads(found[0].read_text()) if found else None


@dataclass(frozen=True)
class FakeTraining:
    """Stands for `train_trial`: goes on from its own files, leaves its files, reports.

    It has no checkpoint between two reports; the file `saved` says that one was asked for.

    Attributes:
        seconds: between reports.
        fault: None, `nan`, `dataset`, `bug`, `die` (the process, in the first attempt only) or `die always`, at
            iteration `at`; of several workers the last one has it.
        only: the one trial that has the fault, None for all.
    """

    seconds: float = 0.0
    fault: str | None = None
    at: int = 3 * PERIOD
    only: str | None = None

    def __call__(self, config: Config, context: TrialContext) -> Report | None:
        last = newest_report(context.output_dir)
        start = int(last["iteration"]) if last else 0
        with (context.output_dir / "starts").open("a") as file:
            file.write(f"{start} {os.getpid()} {context.world_size}\n")
        if context.world_size > 1:
            dist.barrier()  # all have read before rank 0 writes
        if context.is_main:
            metrics.rewind(context.output_dir, last)
        if last is not None and context.report(last):
            return last
        for iteration in range(start + PERIOD, MAX_ITER + 1, PERIOD):
            time.sleep(self.seconds)
            if context.save_now():
                (context.output_dir / "saved").touch()
            value = self._value(config, context, iteration)
            last = {**report(iteration, value), "rank": context.rank}
            if context.is_main:
                leave_reports(context.output_dir, {iteration: value}, keep=context.keep)
            if context.is_main:
                context.on_saved()
            if context.report(last):
                break
        print("the last words of the trial")
        return last

    def _value(self, config: Config, context: TrialContext, iteration: int) -> float:
        faulty = self.fault and iteration == self.at and self.only in (None, context.output_dir.name)
        if faulty and context.rank == context.world_size - 1:
            if self.fault == "dataset":
                raise DatasetError("annotations.json: annotation 7 has label 9, allowed: 0 to 3")
            if self.fault == "bug":
                raise KeyError("no such thing")
            first = not (context.output_dir / "died").exists()
            if self.fault == "die always" or (self.fault == "die" and first):
                (context.output_dir / "died").touch()
                print("about to die", flush=True)
                os._exit(9)
        if faulty and self.fault == "nan":
            return math.nan
        return score(config.value(LR), iteration)


def journal_operations(study: StudyDirectory) -> list[dict[str, Any]]:
    return [json.loads(line) for line in study.journal.read_text().splitlines()]
