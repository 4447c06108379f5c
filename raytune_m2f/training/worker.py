"""The story of a trial. Ray calls it on every worker; `raytune-m2f train` without Ray calls it in its own process."""

from __future__ import annotations

import contextlib
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from raytune_m2f.config import Config
from raytune_m2f.engines import Engine, build_engine
from raytune_m2f.errors import CheckpointError, TrainingError
from raytune_m2f.evaluation import Evaluator
from raytune_m2f.learner.optimizer import effective_lr
from raytune_m2f.loggers.open import Loggers
from raytune_m2f.progress import logged, several, still
from raytune_m2f.storage.files import put_aside, sealed_yaml, sweep, write_atomically
from raytune_m2f.training import checkpoint
from raytune_m2f.training.check import START, check_training, require_same_training
from raytune_m2f.training.memory import Usage, device_name, oom_as_error, usage_report
from raytune_m2f.training.reports import Report, TrialContext, append_report, read_reports, rewind
from raytune_m2f.training.step import LossMeans, Stepper, all_gather, share_buffers
from raytune_m2f.training.symptoms import described
from raytune_m2f.training.trial_dir import CHECKPOINTS, CONFIG

log = logging.getLogger(__name__)

EVALUATION_ADVICE = (
    "Lower TEST.IMS_PER_BATCH, TEST.DETECTIONS_PER_IMAGE, INPUT.MIN_SIZE_TEST and INPUT.MAX_SIZE_TEST, or "
    "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES, or use a machine with more memory."
)


@oom_as_error("before or between steps")
def train_trial(config: Config, context: TrialContext) -> Report:
    """Train from the newest checkpoint in `context.output_dir`, or from the start, to MAX_ITER or until told to stop.

    Returns:
        the last report: "iteration", the evaluator's metrics, the losses, and what it took (`usage_report`).

    Raises:
        InputError: configuration or data are wrong; before anything is trained.
        NonFiniteLossError: the loss became NaN or infinite.
        OutOfMemoryError: one image at a time is too much.
        CheckpointError: a checkpoint could not be written.
    """
    torch.manual_seed(config.SEED)  # the fresh weights: all that is drawn from the global generator
    with still(log, "reading the data"):
        engine = build_engine(config)
    check_training(config, engine, logs=context.is_main)
    learner = engine.learner()
    learner.model.to(context.device)
    stepper = Stepper.build(config, learner, context)
    with checkpoint.CheckpointWriter(context.output_dir / CHECKPOINTS, context.keep, context.on_saved) as writer:
        run = Run(config, context, engine, stepper, writer)
        if not run.restore() and config.MODEL.WEIGHTS:
            learner.load_weights(config.MODEL.WEIGHTS)
        with run.loggers:
            run.tell_loggers()
            if run.report is not None and (context.report(run.report) or run.finished):
                return run.report  # reported before the break, and again now: Tune waits for a first report
            run.introduce()
            return _train(run)


def _train(run: Run) -> Report:
    """All iterations that are left, up to the report at which the trial is told to stop."""
    for iteration, samples in run.batches():
        run.observe(run.stepper.step(samples, iteration))
        run.iteration = iteration + 1
        if run.evaluation_is_due:
            with oom_as_error("in evaluation", EVALUATION_ADVICE):
                report = run.evaluate()
            run.keep(report)
            if run.context.report(report):
                return report
        elif run.iteration % run.config.SOLVER.CHECKPOINT_PERIOD == 0 or run.context.save_now():
            run.save()
    if run.report is None:
        raise TrainingError("the engine gave no batch: nothing was trained")
    return run.report


@dataclass
class Run:
    """A trial under way.

    Attributes:
        iteration: optimizer steps done.
        report: of the last evaluation; None before the first.
        best: how many images were scored, and the value of `context.metric`, of the model in best.pth; a score on all
            test images stands above every score on a subset.
        seconds: spent in training and evaluation, earlier runs of the trial included.
        loggers: the tools of LOGGERS, on rank 0.
    """

    config: Config
    context: TrialContext
    engine: Engine
    stepper: Stepper
    writer: checkpoint.CheckpointWriter
    iteration: int = 0
    report: Report | None = None
    best: tuple[int, float] = (0, -math.inf)
    seconds: float = 0.0
    losses: LossMeans = field(default_factory=LossMeans)

    def __post_init__(self) -> None:
        self._clock = time.monotonic()
        self._evaluators: dict[bool, Evaluator] = {}  # of the subset, of all test images; made when they are needed
        self._progress = several(logged("iteration", log), self.context.progress)
        self._shown: set[str] = set()
        self._vitals = self.stepper.learner.vitals
        self.loggers = Loggers(
            self.config.LOGGERS if self.context.is_main else (),
            self.context.output_dir,
            address=self.context.address,
            config=self.config.flatten(),
        )
        self._start: int = self.config.value(START) if self.config.knows(START) else 0

    @property
    def finished(self) -> bool:
        """Whether no iteration is left."""
        return self.iteration >= self.config.SOLVER.MAX_ITER

    @property
    def evaluation_is_due(self) -> bool:
        """Whether this iteration ends with a report."""
        period = self.config.TEST.EVAL_PERIOD
        return self.finished or (period > 0 and self.iteration % period == 0)

    def batches(self) -> Iterator[tuple[int, list[Any]]]:
        """Each iteration that is left, from 0, and this worker's samples of its global batch."""
        context = self.context
        batches = self.engine.train_batches(
            rank=context.rank, world_size=context.world_size, start_iteration=self.iteration
        )
        for iteration, samples in enumerate(batches, start=self.iteration):
            if 0 < iteration == self._start and context.is_main:
                log.info("iteration %d: images of %d pixels from here on", iteration, self.config.INPUT.IMAGE_SIZE)
            yield iteration, samples

    def restore(self) -> bool:
        """Take the state of the newest readable checkpoint, if there is one; every worker reads the same."""
        folder = self.context.output_dir / CHECKPOINTS
        state = checkpoint.load_newest(folder)
        if state is not None:
            best = checkpoint.best_report(folder)  # without a checkpoint, best.pth is of a run that has gone
            if best is not None:
                with contextlib.suppress(TrainingError):  # it was trained for another metric
                    self.best = self._rank(best)
            require_same_training(state, self.config, self.engine, self.stepper.model, folder)
            self.stepper.restore(state)
            self.iteration, self.report = state["iteration"], state["report"]
            self.seconds, self.losses = state["seconds"], LossMeans.restored(state["losses"])
            if self._vitals is not None:
                self._vitals.restore(state.get("vitals"))  # not in checkpoints of before 2026-11-26
            log.info("going on from iteration %d", self.iteration)
        if self.context.is_main:
            self._lay_out()
        self.loggers.start = 0 if self.report is None else int(self.report["iteration"])
        return state is not None

    def tell_loggers(self) -> None:
        """Write the reports that the tools of LOGGERS do not have yet."""
        if self.loggers:
            self.loggers.write(read_reports(self.context.output_dir))

    def _lay_out(self) -> None:
        """Write what the run's directory begins with. Raises CheckpointError if it cannot be written."""
        output = self.context.output_dir
        for folder in (output, output / CHECKPOINTS):
            sweep(folder)
        try:
            output.mkdir(parents=True, exist_ok=True)
            put_aside(output / CONFIG)
            write_atomically(output / CONFIG, sealed_yaml(self.config.to_yaml()))
            rewind(output, self.report)
        except OSError as error:
            raise CheckpointError(f"cannot write {error.filename or output}: {error.strerror}.") from error

    def introduce(self) -> None:
        """Log device, threads and network, before the first step, which may take long."""
        if self.context.is_main:
            heads = [f"{name} ({len(classes)})" for name, classes in self.engine.categories.subcategories.items()]
            weights = sum(weight.numel() for weight in self.stepper.learner.model.parameters())
            log.info(
                "training on %s, workers: %d, threads of each: %d; %.1f million weights, categories: %d, heads: %s",
                device_name(self.context.device),
                self.context.world_size,
                torch.get_num_threads(),
                weights / 1e6,
                len(self.engine.categories.ids),
                ", ".join(heads) or "none",
            )
            if self.iteration < self._start:
                size = self.config.INPUT.START.IMAGE_SIZE
                log.info("images of %d pixels up to iteration %d (INPUT.START)", size, self._start)
            self.tell()

    def observe(self, losses: dict[str, float]) -> None:
        """Collect the losses for the next report, and tell how far it is."""
        self.losses.add(losses)
        log.debug("iteration %d, lr %.2e: %s", self.iteration + 1, self.stepper.lr, losses)
        self.tell(self.iteration + 1, loss=losses["loss"])

    def tell(self, done: int | None = None, **facts: Any) -> None:
        """Tell the listeners how many iterations are done, with the last score."""
        if self.context.is_main:
            if self.report is not None:
                with contextlib.suppress(TrainingError):  # it was trained for another metric
                    facts[self.context.metric.text] = self._score(self.report)
            self._progress(self.iteration if done is None else done, self.config.SOLVER.MAX_ITER, **facts)

    @torch.no_grad()
    def evaluate(self) -> Report:
        """Predict the test images and score them; the report is the same on every worker.

        Before the last iteration these are TEST.SUBSET images.
        """
        with self.stepper.evaluated():
            return self._evaluate()

    def _evaluate(self) -> Report:
        learner, config, context = self.stepper.learner, self.config, self.context
        learner.model.eval()
        if context.world_size > 1:
            share_buffers(learner.model)  # what is scored is what the checkpoint holds
        subset = config.TEST.SUBSET > 0 and not self.finished
        evaluator = self._evaluator(subset)
        evaluator.reset()
        usage = Usage()
        for samples in self.engine.test_batches(rank=context.rank, world_size=context.world_size, subset=subset):
            with usage.predicting(len(samples), context.device):
                predicted = learner.predict(samples)
            evaluator.process(samples, [instances.to("cpu") for instances in predicted])
            self.tell(evaluated=f"{usage.images} images")
        workers = all_gather([usage]) if context.world_size > 1 else [[usage]]
        with still(log, "scoring"):
            scores = evaluator.evaluate()
        return self._report(scores, usage_report([usage for [usage] in workers]))

    def _evaluator(self, subset: bool) -> Evaluator:
        if subset not in self._evaluators:
            gather = all_gather if self.context.world_size > 1 else None
            self._evaluators[subset] = self.engine.evaluator(gather, subset=subset)
        return self._evaluators[subset]

    def _report(self, scores: dict[str, float], usage: Report) -> Report:
        now = time.monotonic()
        self.seconds += now - self._clock
        self._clock = now
        report = {
            "iteration": self.iteration,
            **{name: value for name, value in scores.items() if math.isfinite(value)},
            **self.losses.take(),
            **({} if self._vitals is None else self._vitals.report()),
            "lr": self.stepper.lr,
            "effective_lr": effective_lr(self.config),
            "global_batch": self.config.SOLVER.IMS_PER_BATCH,
            "micro_batch": self.stepper.micro_batch,
            "workers": self.context.world_size,
            **usage,
            "seconds": round(self.seconds, 3),
        }
        self._score({**scores, **report})  # a metric that is missing or NaN ends the trial here
        return report

    def _score(self, report: Report) -> float:
        return self.context.metric.value(report)

    def keep(self, report: Report) -> None:
        """Best model, checkpoint and metrics.jsonl.

        The next iterations do not wait for the files; a kill meanwhile costs the iterations since the checkpoint
        before, which give the same reports once more. The last report is told only when all is on disk: a
        trial that has ended is not resumed from the checkpoint before it.
        """
        self.report = report
        is_best = self._rank(report) > self.best
        if is_best:
            self.best = self._rank(report)
        self.save(best=is_best)
        if self.finished:
            self.writer.wait()
        if self.context.is_main:
            append_report(self.context.output_dir, report)
            self.tell_loggers()
            told = self.iteration, self.context.metric.text, self._score(report), report["images"], report["lr"]
            log.info("iteration %d: %s %.2f on %d images, lr %.2e", *told)
            self._warn_of(report)

    def _warn_of(self, report: Report) -> None:
        """Say what the vitals show in two reports in a row; early in a training they show much that passes."""
        shown = list(described(report))
        kinds = {text.partition(":")[0] for text in shown}
        for text in shown:
            if text.partition(":")[0] in self._shown:
                log.warning("iteration %d: %s", self.iteration, text)
        self._shown = kinds

    def _rank(self, report: Report) -> tuple[int, float]:
        return report.get("images", 0), self._score(report)

    def save(self, *, best: bool = False) -> None:
        """Start to write the checkpoint of this iteration; `best` if it is the best so far."""
        if self.context.is_main:
            state = {
                **self.stepper.state(),
                "config": self.config.to_dict(),
                "categories": self.engine.categories.to_dict(),
                "data": self.engine.summary.identity,
                "report": self.report,
                "iteration": self.iteration,
                "seconds": self.seconds,
                "losses": self.losses.state(),
                "vitals": None if self._vitals is None else self._vitals.state(),
            }
            self.writer.write(state, best=best)
