"""The processes of a study's trials, and its kills, without Ray: each event is one step of one process."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from fake_study import MAX_ITER, PERIOD, leave_reports, newest_report, open_record
from optuna.storages.journal import JournalFileBackend

from raytune_m2f.drive.driver import Driver
from raytune_m2f.drive.runner import enqueue_points
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.training import reports as metrics
from raytune_m2f.training.reports import Report
from raytune_m2f.training.trial_dir import STOP


def curve(number: int, iteration: int) -> float:
    """A random value in 0 to 100 that is the same again when a trial does an iteration again."""
    return round(100 * random.Random(f"{number} {iteration}").random(), 3)


def drive(study: StudyDirectory, gpus: float = 1.0) -> Driver:
    """A driver that starts, as `run_study` does it."""
    record = open_record(study)
    enqueue_points(record)
    return Driver(record, record.reconcile(), gpus_per_trial=gpus)


class FakeProcesses:
    """Up to `at_once` processes, which train, stop when they find the word, and end.

    Attributes:
        iterations: what each process has trained to.
        over: the processes that have returned, of which the driver was not told yet.
    """

    def __init__(self, driver: Driver, rng: random.Random, at_once: int = 3) -> None:
        self.driver = driver
        self.iterations: dict[int, int] = {}
        self.over: set[int] = set()
        self._rng = rng
        self._at_once = at_once

    def step(self) -> bool:
        """One event; False once there is nothing more to do."""
        events = sorted(self.iterations)
        if len(self.iterations) < self._at_once and not self.driver.finished:
            events.append(-1)
        if not events:
            return False
        event = self._rng.choice(events)
        if event < 0:
            self._start()
        elif event in self.over:
            del self.iterations[event]
            self.over.remove(event)
            self.driver.on_end(event)
        else:
            self._train(event)
        return True

    def run(self) -> None:
        while self.step():
            pass

    def _start(self) -> None:
        handed = self.driver.next_trial()
        if handed is None:
            return
        number = handed[0]
        assert number not in self.iterations, "two processes of one trial"
        output_dir = self.begin(number)
        state = newest_report(output_dir)
        metrics.rewind(output_dir, state)
        self.iterations[number] = int(state["iteration"]) if state else 0
        if state is not None:
            self._report(number, state)

    def _train(self, number: int) -> None:
        iteration = self.iterations[number] = self.iterations[number] + PERIOD
        output_dir = self.folder(number)
        leave_reports(output_dir, {iteration: curve(number, iteration)}, keep=self.driver.record.index.to_keep)
        self._report(number, metrics.read_reports(output_dir)[-1])

    def _report(self, number: int, told: Report) -> None:
        self.push(number)
        self.driver.on_report(number, told)
        if self.iterations[number] >= MAX_ITER or self.is_told_to_stop(number):
            self.over.add(number)

    def folder(self, number: int) -> Path:
        """Where the process of a trial has its files."""
        return self.driver.record.directory.trial(number)

    def begin(self, number: int) -> Path:
        """The folder of a process that starts, with what the trial goes on from."""
        self.folder(number).mkdir(parents=True, exist_ok=True)
        return self.folder(number)

    def push(self, number: int) -> None:
        """Before a report is told; its files are where others see them already."""

    def is_told_to_stop(self, number: int) -> bool:
        return (self.folder(number) / STOP).exists()


class Killed(BaseException):
    """Like SIGKILL: nothing catches it."""


@contextmanager
def killed_after(instants: int, patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Kill whoever runs within, before the next write to the journal or change of a file name.

    Args:
        instants: so many of them still happen.
    """
    left = instants

    def counted(original: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return original(*args, **kwargs)

        return call

    with patch.context() as inner:
        inner.setattr(JournalFileBackend, "append_logs", counted(JournalFileBackend.append_logs))
        inner.setattr(Path, "touch", counted(Path.touch))
        inner.setattr(Path, "unlink", counted(Path.unlink))
        inner.setattr(os, "link", counted(os.link))
        yield


def live(study: StudyDirectory, rng: random.Random, patch: pytest.MonkeyPatch, longest: int) -> Driver:
    """Drive a study to its end, through drivers that are killed within `longest` instants; returns the last."""
    while True:
        try:
            with killed_after(rng.randint(longest // 4, longest), patch):
                driver = drive(study)
                FakeProcesses(driver, rng).run()
                return driver
        except Killed:
            continue
