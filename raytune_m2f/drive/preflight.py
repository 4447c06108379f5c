"""What is checked before a study is made: weights, data, and the search space against the data and the workers."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from raytune_m2f.config import Config
from raytune_m2f.config.schema import AnyModelConfig
from raytune_m2f.doctor.examine import CHECKS, Diagnosis, examine
from raytune_m2f.doctor.keys import searched_in_vain
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.engines import Engine, build_engine
from raytune_m2f.errors import SearchSpaceError, StudyError, first_of
from raytune_m2f.learner.weight_files import check_source
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.training.check import BATCH, PERIOD, QUERIES, check_experiment
from raytune_m2f.training.objective import Constraint, Objective

SHOWN = 3
"""Warnings of the doctor that `tune` names; the others it counts."""

log = logging.getLogger(__name__)


def check_before_start(
    config: Config,
    space: SearchSpace,
    *,
    workers: int,
    asked: Sequence[Objective | Constraint] = (),
    stops: bool = False,
    doctor: bool = False,
) -> list[str]:
    """Read the data once as every trial will, and compare; the log says what was read.

    Args:
        asked: metrics and constraints, whose keys the reports must have.
        stops: whether trials are to be stopped early, by their reports.
        doctor: whether the doctor's quick checks are made too, of data, evaluator and configuration.

    Returns:
        notes for the user, as `check_experiment`, and a line on what the doctor would warn of.

    Raises:
        DatasetError, ConfigError: the data or the configuration are wrong, or do not go together.
        ModelError: MODEL.WEIGHTS names what is not there; an address is not tried.
        SearchSpaceError: a batch in the space is smaller than the workers of a trial.
        StudyError: a metric or a constraint names what no report has, no report comes in time to stop a trial, or the
            doctor has found a problem.
    """
    check_source(config.MODEL.WEIGHTS)
    engine = build_engine(config)
    log.info("%s", engine.summary.text())
    smallest, largest = space.span(BATCH, config)
    notes = check_experiment(
        config,
        engine,
        asked=asked,
        largest_batch=largest if BATCH in space.entries else None,
        fewest_queries=space.span(QUERIES, config)[0] if QUERIES in space.entries else None,
    )
    if stops:
        notes += _check_reports(config)
    if isinstance(config, AnyModelConfig):  # detectron2 looks at many of its keys only when it builds
        learner = engine.learner()
        learner.optimizer(config)
        learner.schedule(config)
    if smallest < workers:
        raise SearchSpaceError(
            f"{BATCH} can be {smallest:g}, but a trial has {workers} workers and each needs an image at least. Raise "
            "the smallest batch or give fewer --workers-per-trial."
        )
    notes += [note.text for note in searched_in_vain(config, space)]
    return [*notes, *_first_look(Subject(config, space, workers=workers), engine, notes)] if doctor else notes


def _first_look(subject: Subject, engine: Engine, notes: Sequence[str]) -> list[str]:
    """A line on what the doctor's quick checks would warn of, but for what the notes say; none if that is all.

    The network is not built: that could need weights, which only a trial fetches.

    Raises:
        StudyError: there is a problem.
    """
    subject.engine = engine  # it has just been read
    checks = tuple(check for check in CHECKS if check.needs != "learner")
    diagnosis = Diagnosis(tuple(examine(subject, checks, quick=True)))
    if problems := diagnosis.problems:
        told = [f"{found.check}: {'. '.join(filter(None, (found.figure, found.meaning)))}" for found in problems]
        advice = problems[0].remedy
        raise StudyError(
            "\n  ".join([f"doctor has found {_count(len(problems), 'problem')}:", *told])
            + f"\n{advice} --no-doctor starts the study all the same."
        )
    told = [
        f"{found.check}: {found.figure}"
        for found in diagnosis.warnings
        if not any(found.figure in note for note in notes)
    ]
    if not told:
        return []
    return [f"doctor: {_count(len(told), 'warning')}: {'; '.join(first_of(told, SHOWN))} (doctor says what to do)"]


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _check_reports(config: Config) -> list[str]:
    """Reports that early stopping would wait for in vain: refused, or told where one at the very end was asked for."""
    period, end = config.TEST.EVAL_PERIOD, config.SOLVER.MAX_ITER
    if 0 < period < end:
        return []
    what = (
        f"{PERIOD} = {period} with SOLVER.MAX_ITER = {end}: trials report at their end only, none can be stopped early"
    )
    cure = f"{PERIOD}={max(1, end // 10)}, say, or --early-stopping none"
    if period == end:
        return [f"{what} ({cure})"]
    raise StudyError(f"{what}. Give {cure}.")
