"""What a trial and a study cost in time and memory, from a few measured steps."""

from __future__ import annotations

import copy
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from raytune_m2f.config import Config
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.engines import Engine
from raytune_m2f.engines.datasets import DatasetEngine
from raytune_m2f.errors import InputError, OutOfMemoryError, RaytuneM2FError, TrainingError
from raytune_m2f.study.record.rungs import default_grace, rung_iterations
from raytune_m2f.study.settings import Budget, EarlyStopping
from raytune_m2f.training.check import START
from raytune_m2f.training.memory import device_name, oom_as_error, peak_memory, start_fresh
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.step import Stepper
from raytune_m2f.training.worker import EVALUATION_ADVICE

STEPS, PREDICTED = 5, 5
"""Optimizer steps, and batches of test images, that are measured; the first of each, which warms up, comes before."""
SHARE = 0.3
"""Of the seconds that the checks may train in all."""
TRIALS = 20
"""Of a study without a budget, as of `tune`."""
LARGE = 256
"""Pixels of a training image's side from which on one image is tried before a whole batch."""
FULL = 0.8
"""Share of the machine's memory that may be taken before it is worth a warning: evaluation and data need some too."""
STATES = 3
"""Numbers of each weight in a checkpoint: itself and AdamW's two moments."""


@dataclass(frozen=True)
class Measured:
    """Seconds and memory of one worker of a trial.

    Attributes:
        data, step: seconds to make a batch, and to learn from it.
        predict, images: seconds for a test image, to predict and score it; how many a full evaluation has.
        steps, predicted: on how many steps and test images the figures rest.
        of: more than 1 where a batch takes too long: a step was measured with one image of so many.
        memory_gb: peak of this process (on a GPU, of what torch has there) [GiB].
        micro_batch: images at once that fitted, and those that were wanted.
        weights: of the network.
    """

    data: float
    step: float
    predict: float
    images: int
    steps: int
    predicted: int
    of: int
    memory_gb: float
    micro_batch: tuple[int, int]
    weights: int


def _measure(subject: Subject) -> Measured | RaytuneM2FError:
    """Train a few steps at the size of the configuration, and predict a few test images; or why that fails."""
    start_fresh()
    try:
        with tempfile.TemporaryDirectory() as folder, oom_as_error("before or between steps"):
            return _measured(subject, Path(folder))
    except (TrainingError, InputError) as error:
        return error


def _measured(subject: Subject, folder: Path) -> Measured:
    config, workers = subject.config, subject.workers
    if config.MODEL.COMPILE:  # minutes, for which nothing is learned here: the figures are those without it
        config = config.with_values({"MODEL.COMPILE": False})
    engine = _alone(subject.engine)
    limit = SHARE * subject.seconds
    stepper = Stepper.build(config, subject.fresh_learner(), TrialContext(folder, device=subject.device))
    wanted = -(-config.SOLVER.IMS_PER_BATCH // workers)
    stepper.micro_batch = min(stepper.micro_batch, wanted)
    first = config.value(START) if config.knows(START) else 0
    first = first if first < config.SOLVER.MAX_ITER else 0
    batches = iter(engine.train_batches(rank=0, world_size=workers, start_iteration=first))
    planned = stepper.micro_batch
    data: list[float] = []
    steps: list[float] = []

    def step(samples: Sequence[Any]) -> float:
        at = time.perf_counter()
        stepper.step(samples, first)
        _wait_for(subject.device)
        return time.perf_counter() - at

    begun = time.perf_counter()
    of = 1  # images of a batch for each that a step was measured with
    while len(steps) <= STEPS and (not steps or time.perf_counter() - begun < limit):
        at = time.perf_counter()
        samples = next(batches, None)
        if samples is None:
            break
        data.append(time.perf_counter() - at)
        if not steps and _is_large(config) and len(samples) * (single := step(samples[:1])) > limit:
            of, planned, stepper.micro_batch = len(samples), 1, 1
            if single > limit:
                steps.append(of * single)
                break
        steps.append(of * step(samples[:1] if of > 1 else samples))
    if not steps:
        raise TrainingError("the engine gave no batch")
    with oom_as_error("in evaluation", EVALUATION_ADVICE):
        predictions, counts = _predicted(subject, engine, stepper, limit / 2)
    warm = slice(1, None) if len(steps) > 1 else slice(None)
    scored = slice(1, None) if len(predictions) > 1 else slice(None)
    return Measured(
        data=median(data[warm]),
        step=median(steps[warm]),
        predict=sum(predictions[scored]) / max(sum(counts[scored]), 1),
        images=engine.summary.test.images,
        steps=len(steps[warm]),
        of=of,
        predicted=sum(counts[scored]),
        memory_gb=peak_memory(subject.device),
        micro_batch=(stepper.micro_batch, planned),
        weights=sum(weight.numel() for weight in stepper.model.parameters()),
    )


def _is_large(config: Config) -> bool:
    """Whether a batch may take minutes, and one image of it is large enough for batch norm to learn from."""
    return config.knows("INPUT.IMAGE_SIZE") and config.value("INPUT.IMAGE_SIZE") >= LARGE


def _alone(engine: Engine) -> Engine:
    """The engine with images loaded in this process: starting others would take longer than all that is measured."""
    if not isinstance(engine, DatasetEngine):
        return engine
    other = copy.copy(engine)
    other.config = engine.config.with_values({"DATALOADER.NUM_WORKERS": 0})
    return other


@torch.no_grad()
def _predicted(subject: Subject, engine: Engine, stepper: Stepper, limit: float) -> tuple[list[float], list[int]]:
    """Seconds and number of images of some test batches."""
    stepper.model.eval()
    evaluator = engine.evaluator()
    evaluator.reset()
    seconds: list[float] = []
    counts: list[int] = []
    begun = at = time.perf_counter()
    for samples in engine.test_batches(rank=0, world_size=subject.workers):
        found = stepper.learner.predict(samples)
        evaluator.process(samples, [each.to("cpu") for each in found])
        now = time.perf_counter()
        seconds.append(now - at)
        counts.append(len(samples))
        at = now
        if len(seconds) > PREDICTED or now - begun > limit:
            break
    return seconds, counts


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


# Time


@dataclass(frozen=True)
class Estimate:
    """Seconds of a trial.

    Attributes:
        training, evaluation: of all iterations, of all evaluations.
        evaluations: how many.
        waits: share of the training's time in which the network waits for data.
    """

    training: float
    evaluation: float
    evaluations: int
    waits: float

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.training + self.evaluation


def estimate(config: Config, measured: Measured, workers: int = 1) -> Estimate:
    """What a whole trial takes: its iterations and evaluations. Checkpoints are written beside them."""
    end, period, subset = config.SOLVER.MAX_ITER, config.TEST.EVAL_PERIOD, config.TEST.SUBSET
    loading = config.DATALOADER.NUM_WORKERS
    step = max(measured.step, measured.data / loading) if loading else measured.step + measured.data
    at_start, size = 0, 1.0
    if config.knows(START) and (at_start := min(config.INPUT.START.ITERS, end)):
        size = (config.INPUT.START.IMAGE_SIZE / config.INPUT.IMAGE_SIZE) ** 2  # a step costs as its pixels do
    evaluations = max(1, -(-end // period)) if period else 1
    images = measured.images + (evaluations - 1) * (min(subset, measured.images) if subset else measured.images)
    return Estimate(
        training=(end - at_start) * step + at_start * step * size,
        evaluation=images * measured.predict / workers,
        evaluations=evaluations,
        waits=1 - measured.step / step,
    )


def share_with_rungs(config: Config) -> float:
    """How much of its length a trial has on average, if one in three goes on at each rung of early stopping."""
    end, rule = config.SOLVER.MAX_ITER, EarlyStopping()
    grace = default_grace(end, config.TEST.EVAL_PERIOD)
    rungs = rung_iterations("asha", grace, rule.reduction_factor, end)
    share, done, left = 0.0, 0, 1.0
    for rung in (*(rung for rung in rungs if rung < end), end):
        share += left * (rung - done) / end
        done, left = rung, left / rule.reduction_factor
    return share


def _time(subject: Subject) -> Iterator[Finding]:
    measured = subject.once(_measure)
    if isinstance(measured, RaytuneM2FError):
        if isinstance(measured, OutOfMemoryError):
            yield TIME.skipped("no step could be measured: see cost/memory")
        else:
            yield TIME.problem(
                f"no step could be measured: {measured}",
                "A training would end in the same way",
                "See what the checks of the model say, and lower SOLVER.BASE_LR if a loss is not finite.",
            )
        return
    found = estimate(subject.config, measured, subject.workers)
    values = {**vars(measured), "seconds": found.seconds, "training": found.training, "evaluation": found.evaluation}
    single = f" of one image, times {measured.of}" if measured.of > 1 else ""
    rests = f"rests on {_count(measured.steps, 'step')}{single}, and {_count(measured.predicted, 'test image')}"
    figure = (
        f"a trial takes about {_duration(found.seconds)} on {_machine(subject)}: {subject.config.SOLVER.MAX_ITER} "
        f"iterations of {_short(found.training / subject.config.SOLVER.MAX_ITER)}, {found.evaluations} evaluations of "
        f"{_duration(found.evaluation / found.evaluations)} ({rests})"
    )
    warnings = []
    if subject.device.type == "cpu" and found.seconds > LONG_ON_CPU:
        warnings.append(
            TIME.warning(
                figure,
                "On a CPU that is too long for a study",
                "Train on a GPU, or build on small_data.yaml, which learns a small set within its hour.",
                **values,
            )
        )
    elif found.evaluation > found.training and found.evaluations > 1:
        warnings.append(
            TIME.warning(
                figure,
                f"{found.evaluation / found.seconds:.0%} of it is evaluation",
                "Raise TEST.EVAL_PERIOD, or score fewer images in between (TEST.SUBSET).",
                **values,
            )
        )
    elif found.waits > MOST_WAITING and found.training > LONG:
        loading = subject.config.DATALOADER.NUM_WORKERS
        warnings.append(
            TIME.warning(
                figure,
                f"{found.waits:.0%} of the training is waiting for images: a batch takes {_short(measured.data)} to "
                f"load, a step {_short(measured.step)}",
                f"Raise DATALOADER.NUM_WORKERS ({loading}), or make the image files smaller.",
                **values,
            )
        )
    yield from warnings or [TIME.ok(figure, **values)]


LONG_ON_CPU = 2 * 86_400.0
"""Seconds of a trial."""
MOST_WAITING = 0.5
LONG = 600.0
"""Seconds of a training that are worth mending."""


# Memory


def _memory(subject: Subject) -> Iterator[Finding]:
    measured = subject.once(_measure)
    if isinstance(measured, OutOfMemoryError):
        yield MEMORY.problem(str(measured), "No training is possible here with these settings", ADVICE_AT_END)
        return
    if isinstance(measured, RaytuneM2FError):
        yield MEMORY.skipped("no step could be measured: see cost/time")
        return
    there, where = _memory_there(subject.device)
    got, wanted = measured.micro_batch
    kind = "on the GPU" if subject.device.type == "cuda" else "this process, with torch and the data in it"
    share = f" of {there:.0f} GiB" if there else ""
    disk = measured.weights * 4 * STATES / 2**30
    figure = (
        f"at its peak a worker takes {measured.memory_gb:.1f} GiB ({kind}){share}, with {_count(got, 'image')} at "
        f"once; a checkpoint takes about {disk:.2g} GiB on disk"
    )
    values: dict[str, Any] = {"memory_gb": measured.memory_gb, "there_gb": there, "where": where, "checkpoint_gb": disk}
    if got < wanted:
        yield MEMORY.warning(
            f"{figure}; {wanted} at once were out of memory",
            "Training goes on with fewer at once by itself; the global batch and the result stay",
            f"Set SOLVER.MICRO_BATCH={got}, so that no trial has to find it.",
            **values,
        )
    elif there and measured.memory_gb > FULL * there:
        yield MEMORY.warning(
            figure,
            "Little is left for larger images, evaluation, or another trial beside it",
            f"Set SOLVER.MICRO_BATCH={max(1, got // 2)}: the global batch and the result stay.",
            **values,
        )
    else:
        yield MEMORY.ok(figure, **values)


ADVICE_AT_END = "Follow what is said there, and measure again."


def _memory_there(device: torch.device) -> tuple[float, str]:
    """Memory of the machine, or of its GPU [GiB]; 0 if it does not say."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory / 2**30, torch.cuda.get_device_name(device)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, "this machine"
    except (ValueError, OSError, AttributeError):
        return 0.0, "this machine"


# A study


def _study(subject: Subject) -> Iterator[Finding]:
    measured = subject.once(_measure)
    if isinstance(measured, RaytuneM2FError):
        yield STUDY.skipped("no step could be measured: see cost/time and cost/memory")
        return
    config, budget = subject.config, subject.budget
    trial = estimate(config, measured, subject.workers).seconds
    share = share_with_rungs(config)
    shorter = share * trial
    values = {"trial_seconds": trial, "share_with_rungs": share, "trial_seconds_with_rungs": shorter}
    trials = TRIALS if budget is None else budget.trials
    if trials:
        gpus = ""
        if subject.device.type == "cuda":
            hours = trials * subject.workers * trial / 3600
            gpus = f", {share * hours:.3g} to {hours:.3g} GPU-hours"
        yield STUDY.ok(
            f"{_count(trials, 'trial')} one after the other: {_duration(trials * shorter)} if most of them end "
            f"early, {_duration(trials * trial)} if all go to their end{gpus}",
            trials=trials,
            **values,
        )
    for what, seconds in _bought(config, budget, subject.workers, trial) if budget is not None else ():
        most, least = seconds / max(shorter, 1e-9), seconds / max(trial, 1e-9)
        figure = f"{what} buy {least:.3g} trials to their end, {most:.3g} if most of them end early"
        if most < FEW:
            yield STUDY.warning(
                figure,
                "That is too few to search with",
                "Give more, shorten the trials (SOLVER.MAX_ITER), or make a step cheaper (INPUT.IMAGE_SIZE).",
                **values,
            )
        else:
            yield STUDY.ok(figure, **values)


def _bought(config: Config, budget: Budget, workers: int, trial: float) -> Iterator[tuple[str, float]]:
    """The limits of a budget but for the trials, and how many seconds of one trial after the other each is."""
    if budget.seconds:
        yield f"{_duration(budget.seconds)} of wall time", budget.seconds
    if budget.gpu_hours:
        yield f"{budget.gpu_hours:g} GPU-hours", budget.gpu_hours * 3600 / workers
    if budget.iterations:
        yield f"{budget.iterations} iterations", budget.iterations * trial / config.SOLVER.MAX_ITER


FEW = 5
"""Trials below which a search is none."""


def _machine(subject: Subject) -> str:
    workers = f"{subject.workers} workers like " if subject.workers > 1 else ""
    if subject.device.type == "cuda":
        return f"{workers}{device_name(subject.device)}"
    return f"{workers}this CPU ({_count(torch.get_num_threads(), 'thread')}; a GPU is many times as fast)"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"


def _short(seconds: float) -> str:
    return f"{1000 * seconds:.0f} ms" if seconds < 1 else f"{seconds:.1f} s"


def _duration(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            count = seconds / length
            return f"{count:,.0f} {unit}" if count >= 100 else f"{count:.3g} {unit}"
    return f"{seconds:.2g} s"


TIME = Check("cost/time", "how long does a trial take?", _time, "learner")
MEMORY = Check("cost/memory", "does a step fit into memory?", _memory, "learner")
STUDY = Check("cost/study", "what does a study cost, and what does its budget buy?", _study, "learner")

CHECKS: tuple[Check, ...] = (TIME, MEMORY, STUDY)
