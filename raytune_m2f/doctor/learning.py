"""Whether it learns: one batch is overfitted; each head, and the masks, by themselves.

The batch is two windows of training images (`excerpt`), the same at every step; optimizer, loss weights and learning
rate are those of the configuration, the rate constant after a short warm-up. What learns at all learns these in some
ten to some hundred steps: what does not is named.
"""

from __future__ import annotations

import math
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from raytune_m2f.config import Config
from raytune_m2f.data import TrainSample
from raytune_m2f.data.masks import decode
from raytune_m2f.doctor.bench import Bench, called, logits_of, term_of, why_no_bench
from raytune_m2f.doctor.excerpt import labels_of
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.errors import NonFiniteLossError, OutOfMemoryError
from raytune_m2f.learner.base import Learner
from raytune_m2f.learner.mask_former import MaskFormerLearner, build_criterion
from raytune_m2f.model import (
    MAIN,
    UNKNOWN,
    MultiTaskMaskFormer,
    NonFiniteError,
    Outputs,
    RandomPoints,
    pad_masks,
    padded_size,
)
from raytune_m2f.model.criterion import last_output, matched_masks
from raytune_m2f.model.structures import TargetBatch
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.step import Stepper

STEPS = 240
"""At most."""
WARM_UP = 10
LOOK = 5
"""Steps from one look at what has been learned to the next."""
SHARE = 0.8
"""Of the time that all checks which train may take."""
FEWEST = 20
"""Steps from which on a loss that does not fall says something."""
PATIENT = 60
"""Steps before a head is named that others have left behind, and as many again as they took."""
SLOW = 10
"""A training is longer than what two images take by this factor at least."""
RIGHT = 0.75
"""A head has learned this share of what the majority leaves to learn; masks have this mean overlap."""
OVERLAP = 0.6
WORSE = 0.5
"""What is predicted after all has been learned is at least this share of it right."""
BEGUN = 0.25
"""With this share of what the majority leaves to learn, or this overlap, it has begun."""
RECENT = 6
"""Looks in whose mean what is named has not begun to learn."""
LEARNED_ELSE = 0.75
"""A loss that has fallen by this share has learned something; if not what the data say, it is something else."""
FALLEN = 0.03
"""A loss has fallen if it is less by this share."""
MOVED = 0.05
"""Weights have moved if they differ from the first ones by this share of their size; decay moves them less."""
FAR = 0.15
"""And far, if by this: those that had learned all had moved by 0.01 to 0.05."""


@dataclass
class Course:
    """What a head, or the masks, did.

    Attributes:
        figures: accuracy on the matched queries whose label is known, or mean overlap of the matched masks, by step.
        least: from which figure on it has learned.
        hopeless: up to which figure it has not even begun to.
        majority: what one reaches who always says the commonest class.
        learned: the step at which it had, at two looks in a row, so that it was not by chance.
    """

    least: float
    hopeless: float
    majority: float = 0.0
    figures: dict[int, float] = field(default_factory=dict)
    learned: int | None = None

    def add(self, step: int, figure: float) -> None:
        """Note it; what is forgotten again has not been learned."""
        before = self.figures.get(max(self.figures, default=0), 0.0)
        self.figures[step] = figure
        if figure < self.least:
            self.learned = None
        elif self.learned is None and before >= self.least:
            self.learned = step

    @classmethod
    def of(cls, labels: Sequence[int]) -> Course:
        """Of a head with these labels; where they are all one class, it is to be told from "no object"."""
        majority = max(Counter(labels).values()) / len(labels)
        base = majority if majority < 1 else 0.0
        return cls(base + RIGHT * (1 - base), base + BEGUN * (1 - base), majority)

    @property
    def is_lost(self) -> bool:
        """Whether it has not begun to learn at the latest looks."""
        return _mean([self.figures[step] for step in sorted(self.figures)[-RECENT:]] or [0.0]) <= self.hopeless

    @property
    def last(self) -> float:
        """The newest figure."""
        return self.figures[max(self.figures)]


@dataclass
class Run:
    """A training of one batch.

    Attributes:
        losses: every term, weighted, by step; "loss" is their sum.
        courses: of every head with known labels, and of the masks (`MASKS`).
        failure: why it ended, where it could not go on.
        moved: how far the weights are from the first ones, in units of their size.
        rate: the learning rate after the warm-up.
        is_timed_out: whether the time was over before the steps were.
    """

    losses: dict[str, list[float]] = field(default_factory=dict)
    courses: dict[str, Course] = field(default_factory=dict)
    failure: Exception | None = None
    moved: float = 0.0
    rate: float = 0.0
    is_timed_out: bool = False
    seconds: float = 0.0

    @property
    def steps(self) -> int:
        """How many were made."""
        return len(self.losses.get("loss", ()))

    @property
    def learned(self) -> list[str]:
        """What has."""
        return [name for name, course in self.courses.items() if course.learned is not None]

    @property
    def left(self) -> list[str]:
        """What has not."""
        return [name for name, course in self.courses.items() if course.learned is None]

    @property
    def lost(self) -> list[str]:
        """What has not begun to."""
        return [name for name in self.left if self.courses[name].is_lost]

    def fall(self, term: str) -> float:
        """By which share a loss is lower at the end than at the start."""
        values = self.losses.get(term, [])
        if len(values) < 2:
            return 0.0
        first, last = _mean(values[:3]), _mean(values[-5:])
        return (first - last) / first if first > 0 else 0.0

    @property
    def is_sound(self) -> bool:
        """Whether all has been learned."""
        return self.failure is None and not self.left

    @property
    def is_decided(self) -> bool:
        """Whether more steps would tell no more."""
        if not self.left or (self.steps >= PATIENT and self.fall("loss") < FALLEN):
            return True
        latest = max((course.learned or 0 for course in self.courses.values()), default=0)
        if self.steps >= 2 * PATIENT and self.has_other_masks:
            return True
        late = self.steps >= max(PATIENT, 2 * latest + FEWEST)
        return bool(self.learned) and late and len(self.lost) == len(self.left)

    @property
    def heads_rise(self) -> bool:
        """Whether no head has begun to learn, though they are several, and their losses do not even fall."""
        heads = [name for name in self.courses if name != MASKS]
        falls = [self.fall(term_of(head)) for head in heads]
        return len(heads) > 1 and set(heads) <= set(self.lost) and _mean(falls) < FALLEN

    @property
    def has_other_masks(self) -> bool:
        """Whether the masks are learned well, but not those of the data."""
        return self.courses[MASKS].is_lost and min(self.fall("loss_mask"), self.fall("loss_dice")) > LEARNED_ELSE


MASKS = "masks"


def weight_of(config: Config, head: str) -> float:
    """Of its loss."""
    former = config.MODEL.MASK_FORMER
    return former.CLASS_WEIGHT if head == MAIN else former.SUBCATEGORY_WEIGHT


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def look(subject: Subject) -> Iterator[Finding]:
    """Train, and say what has learned."""
    if reason := why_no_bench(subject):
        yield CHECK.skipped(reason)
        return
    run, learner = train(subject)
    yield from verdict(subject, run)
    if run.is_sound:
        yield from _predicted(subject, run, learner)


def train(subject: Subject) -> tuple[Run, MaskFormerLearner]:
    """Overfit the windows with a fresh learner, until all has been learned, or time or steps are over."""
    start = time.monotonic()
    excerpt, learner = subject.excerpt, subject.fresh_learner()
    assert excerpt is not None
    config = subject.config.with_values({"MODEL.COMPILE": False, "MODEL_EMA.ENABLED": False})
    watch = Watch(subject, learner)
    run = Run(courses=watch.courses())
    first = [p.detach().clone() for p in learner.model.parameters()]
    with tempfile.TemporaryDirectory() as folder:
        stepper = Stepper.build(config, learner, TrialContext(Path(folder), device=subject.device))
        stepper.schedule = lambda step: min(1.0, (step + 1) / WARM_UP)
        stepper.forward = watch.forward
        run.rate = max(stepper.base_lrs)
        for step in range(STEPS):
            try:
                for term, value in stepper.step(excerpt.samples, step).items():
                    run.losses.setdefault(term, []).append(value)
                if step % LOOK == 0:
                    watch.note(run, step)
            except (NonFiniteLossError, NonFiniteError, OutOfMemoryError) as error:
                run.failure = error
                break
            watch.made.clear()
            run.seconds = time.monotonic() - start
            run.is_timed_out = run.seconds > SHARE * subject.seconds
            if run.is_decided or run.is_timed_out:
                break
    run.moved = _moved(first, list(learner.model.parameters()))
    return run, cast(MaskFormerLearner, learner)


def _moved(before: Sequence[Tensor], after: Sequence[Tensor]) -> float:
    size = math.sqrt(sum(float(x.double().square().sum()) for x in before))
    way = math.sqrt(sum(float((y.detach() - x).double().square().sum()) for x, y in zip(before, after, strict=True)))
    return way / max(size, 1e-12)


class Watch:
    """Looks at what a network has learned of the windows, in the outputs that its loss was made of.

    The matching is the configuration's own, whatever that of the learner is.
    """

    def __init__(self, subject: Subject, learner: Learner):
        assert subject.excerpt is not None
        self.excerpt, self.device, self.config = subject.excerpt, subject.device, subject.config
        self.model = cast(MultiTaskMaskFormer, learner.model)
        self.matcher = build_criterion(subject.config).matcher
        self.made: list[Outputs] = []

    def forward(self, images: Sequence[Tensor]) -> Outputs:
        """The network's, whose outputs are kept until the next step."""
        outputs: Outputs = self.model(images)
        self.made.append(outputs)
        return outputs

    def courses(self) -> dict[str, Course]:
        """Of the heads that have labels in the windows and a weight in the loss, and of the masks."""
        courses = {}
        for head in labels_of(self.excerpt.samples[0].target):
            labels = self.excerpt.labels(head).tolist()
            if labels and weight_of(self.config, head):
                courses[head] = Course.of(labels)
        return {**courses, MASKS: Course(OVERLAP, BEGUN)}

    @torch.no_grad()
    def note(self, run: Run, step: int) -> None:
        """Add what the outputs of this step say to the run. Raises NonFiniteError: they are not finite."""
        right: dict[str, list[bool]] = defaultdict(list)
        overlaps: list[float] = []
        samples = list(self.excerpt.samples)
        for outputs in reversed(self.made):  # of the micro-batches; those that were out of memory come first
            part = samples[len(samples) - outputs.pred_logits.shape[1] :]
            del samples[len(samples) - len(part) :]
            if part:
                self._note_part(part, last_output(outputs), right, overlaps)
        for head in run.courses.keys() & right.keys():
            run.courses[head].add(step, _mean(right[head]))
        run.courses[MASKS].add(step, _mean(overlaps))

    def _note_part(
        self, part: Sequence[TrainSample], outputs: Outputs, right: dict[str, list[bool]], overlaps: list[float]
    ) -> None:
        size = padded_size([sample.image for sample in part], self.model.size_divisibility)
        targets = (replace(sample.target, masks=pad_masks(sample.target.masks, size)) for sample in part)
        batch = TargetBatch.of([target.to(self.device) for target in targets])
        pairs = self.matcher(outputs, batch, RandomPoints([sample.seed for sample in part], self.device))
        labels = {MAIN: batch.labels, **batch.sublabels}
        for head, logits in logits_of(outputs).items():
            truth = labels[head][pairs.instances[0]]
            answers = logits[0, pairs.images[0], pairs.queries[0]].argmax(-1) == truth
            right[head] += answers[truth != UNKNOWN].tolist()
        logits = F.interpolate(matched_masks(outputs, pairs), size=size, mode="bilinear", align_corners=False)[0]
        found = _overlaps(logits > 0, batch.masks[pairs.instances[0]] > 0)
        if outputs.distinct is not None:  # one that only repeats another is never predicted
            found *= outputs.distinct[pairs.images[0], pairs.queries[0]]
        overlaps += found.tolist()


def _overlaps(masks: Tensor, truth: Tensor) -> Tensor:
    """(N, H, W) bool each to (N,), intersection over union."""
    union = (masks | truth).flatten(1).sum(1).clamp(min=1)
    return (masks & truth).flatten(1).sum(1) / union


# What it says


def verdict(subject: Subject, run: Run) -> Iterator[Finding]:
    """What has learned and what has not, and why."""
    excerpt, solver = subject.excerpt, subject.config.SOLVER
    assert excerpt is not None
    values = {
        "steps": run.steps, "seconds": round(run.seconds, 1), "side": excerpt.side, "lr": run.rate,
        "accuracy": {name: round(c.last, 3) for name, c in run.courses.items() if name != MASKS and c.figures},
        "overlap": round(run.courses[MASKS].last, 3) if run.courses[MASKS].figures else None,
        "fall": {term: round(run.fall(term), 3) for term in run.losses}, "moved": run.moved,
    }  # fmt: skip
    where = f"in {run.steps} steps on two windows of {excerpt.side} pixels at the learning rate {run.rate:g}"
    lower = (
        f"Lower SOLVER.BASE_LR (now {solver.BASE_LR:g}, LR_SCALING {solver.LR_SCALING}) tenfold, and run doctor again."
    )
    if isinstance(run.failure, OutOfMemoryError):
        yield CHECK.problem(str(run.failure), "", "Take smaller images or a smaller network.", **values)
    elif run.failure is not None:
        yield CHECK.problem(
            f"the loss became NaN or infinite at step {run.steps + 1} of a training on two windows, at the learning "
            f"rate {run.rate:g}",
            "The training would end there.",
            f"Look at model/finite first; if the network begins sound: {lower}",
            **values,
        )
    elif not run.left:
        unlabelled = f"; without a label there, and not asked: {', '.join(excerpt.unlabelled)}" * bool(
            excerpt.unlabelled
        )
        yield CHECK.ok(f"learned {where}: {_listed(run)}{unlabelled}", **values)
    elif run.steps < (PATIENT if run.is_timed_out else FEWEST):
        yield CHECK.skipped(_too_short(subject, run))
    elif run.fall("loss") < FALLEN:
        yield from _nothing(subject, run, where, lower, values)
    elif run.has_other_masks:
        yield _named(run, MASKS, where, values)
    elif run.heads_rise:
        yield _rising(run, where, lower, values)
    elif run.learned and run.lost and (run.is_decided or run.steps >= STEPS):
        for name in run.lost:
            yield _named(run, name, where, values)
    else:
        yield from _slowly(subject, run, where, values)


def _listed(run: Run) -> str:
    heads = [
        f"{name} {course.last:.0%} (always the commonest: {course.majority:.0%})"
        for name, course in run.courses.items()
        if course.figures and name != MASKS
    ]
    masks = run.courses[MASKS]
    return f"right are {', '.join(heads)}; masks overlap by {masks.last:.0%}" if masks.figures else ", ".join(heads)


def _too_short(subject: Subject, run: Run) -> str:
    step = run.seconds / max(run.steps, 1)
    return (
        f"{run.steps} steps of {step:.1f} s were made in {subject.seconds:g} s, in which the loss fell by "
        f"{max(run.fall('loss'), 0):.0%}: too few to say what learns. Give more time: --seconds "
        f"{math.ceil(max(2 * subject.seconds, step * PATIENT * 2 / SHARE) / 60) * 60}, or a GPU"
    )


def _nothing(subject: Subject, run: Run, where: str, lower: str, values: dict[str, Any]) -> Iterator[Finding]:
    """The loss does not fall: it rises, or the weights hardly move, or they move in vain."""
    fall = run.fall("loss")
    change = f"fell by {fall:.1%} only" if fall > 0 else f"rose by {-fall:.0%}" if fall < -0.005 else "did not fall"
    if run.moved < MOVED and abs(fall) < FALLEN:
        clip = subject.config.SOLVER.CLIP_GRADIENTS
        clipped = f", or CLIP_GRADIENTS.CLIP_VALUE ({clip.CLIP_VALUE:g} now; published is 0.01)" * clip.ENABLED
        yield CHECK.problem(
            f"the loss {change} {where}; the weights moved by {run.moved:.1e} of their size",
            "The steps are far too small: nothing is learned.",
            f"Raise SOLVER.BASE_LR (the rate is {run.rate:g} now; published is 1e-4 for batch 16){clipped}.",
            **values,
        )
        return
    yield CHECK.problem(
        f"the loss {change} {where}; the weights moved by {run.moved:.1e} of their size",
        "Two images cannot be learned, so more of them cannot. Mostly the learning rate is far too high.",
        f"{lower} If it falls no more then, look at the findings of the group model.",
        **values,
    )


def _rising(run: Run, where: str, lower: str, values: dict[str, Any]) -> Finding:
    heads = [name for name in run.courses if name != MASKS]
    changes = ", ".join(f"{head} {-run.fall(term_of(head)):+.0%}" for head in heads)
    return CHECK.problem(
        f"no head learns {where}: their losses changed by {changes}; masks overlap by {run.courses[MASKS].last:.0%}",
        "What is common to all heads is at fault, mostly a learning rate that is far too high.",
        lower,
        **values,
    )


def _slowly(subject: Subject, run: Run, where: str, values: dict[str, Any]) -> Iterator[Finding]:
    """The loss falls, but it is too early to name what does not learn; or the training is too short for this."""
    iterations, solver = subject.config.SOLVER.MAX_ITER, subject.config.SOLVER
    if run.steps >= 2 * PATIENT and run.moved > FAR:
        yield CHECK.warning(
            f"not all was learned by heart {where}, though the loss fell by {run.fall('loss'):.0%} and the weights "
            f"moved by {run.moved:.0%} of their size: {_listed(run)}",
            "The learning rate seems to be too high.",
            f"Lower SOLVER.BASE_LR (now {solver.BASE_LR:g}, LR_SCALING {solver.LR_SCALING}) threefold and run doctor "
            "again.",
            **values,
        )
    elif run.steps >= STEPS and iterations < SLOW * run.steps:
        yield CHECK.warning(
            f"not all was learned by heart {where}, though the loss fell by {run.fall('loss'):.0%}: {_listed(run)}",
            f"A training of {iterations} iterations is too short at this rate.",
            f"Raise SOLVER.BASE_LR (now {solver.BASE_LR:g}, LR_SCALING {solver.LR_SCALING}) threefold and run doctor "
            "again, or raise MAX_ITER.",
            **values,
        )
    elif run.is_timed_out:
        yield CHECK.skipped(_too_short(subject, run))
    else:
        yield CHECK.skipped(
            f"the loss fell by {run.fall('loss'):.0%} {where}, too slowly to say what learns: {_listed(run)}. At this "
            "rate a training needs many times as many iterations"
        )


def _named(run: Run, name: str, where: str, values: dict[str, Any]) -> Finding:
    """What has not learned what others have."""
    course = run.courses[name]
    others = ", ".join(called(other) if other != MASKS else "the masks" for other in run.learned) or "nothing else"
    if name == MASKS:
        return CHECK.problem(
            f"the masks do not learn {where}: they overlap the true ones by {course.last:.0%}; {others} learned; "
            f"loss_mask fell by {run.fall('loss_mask'):.0%}, loss_dice by {run.fall('loss_dice'):.0%}",
            "It learns other masks than the data have: they are changed on their way into the loss."
            if run.has_other_masks
            else "Instances are found nowhere, or elsewhere.",
            "Look at MASK_WEIGHT and DICE_WEIGHT of MODEL.MASK_FORMER, and whether masks lie where the image shows "
            "them.",
            of=name, **values,
        )  # fmt: skip
    fall = run.fall(term_of(name))
    shifted = fall > LEARNED_ELSE
    meaning = (
        "It learns other classes than the data have: labels are changed on their way into the loss."
        if shifted
        else "What it is given, or its labels, have nothing to do with the image; or it does not learn at all."
    )
    weight = "CLASS_WEIGHT" if name == MAIN else "SUBCATEGORY_WEIGHT"
    return CHECK.problem(
        f"{called(name)} does not learn {where}: {course.last:.0%} of its classes are right (always the commonest: "
        f"{course.majority:.0%}), though {others} learned; its loss fell by {fall:.0%}",
        meaning,
        f"Look at MODEL.MASK_FORMER.{weight}, at the labels of this head (group data), then at the findings of the "
        "group model.",
        of=name, **values,
    )  # fmt: skip


def _predicted(subject: Subject, run: Run, learner: MaskFormerLearner) -> Iterator[Finding]:
    """What has been learned by heart must be what `predict` says, in evaluation mode."""
    bench = Bench(subject, learner)
    right: dict[str, list[float]] = defaultdict(list)
    for sample, found in zip(bench.excerpt.samples, bench.predict(bench.excerpt.images), strict=True):
        height, width = sample.image.shape[1:]
        masks = torch.from_numpy(decode(found.masks, height, width)).bool()
        labels = {MAIN: found.labels, **{head: probs.argmax(-1) for head, probs in found.subprobs.items()}}
        for n, truth in enumerate(sample.target.masks):
            overlaps = _overlaps(masks, truth.expand_as(masks)) if len(masks) else torch.zeros(1)
            right[MASKS].append(float(overlaps.max()))
            if right[MASKS][-1] < OVERLAP:
                continue
            at = int(overlaps.argmax())  # a query's labels come in the order of their scores
            for head, truths in labels_of(sample.target).items():
                if truths[n] != UNKNOWN and head in labels:
                    right[head].append(float(int(labels[head][at]) == int(truths[n])))
    for name, answers in right.items():
        if _mean(answers) < WORSE * (run.courses[name].last if name in run.courses else 0):
            was = f"{run.courses[name].last:.0%} in training"
            yield CHECK.problem(
                "what was learned is not what `predict` says of the same images: "
                + (f"the masks overlap the true ones by {_mean(answers):.0%}, {was}" if name == MASKS
                   else f"{_mean(answers):.0%} of {len(answers)} instances have their class in {called(name)}, {was}"),
                "Evaluation does not see what training has learned: other outputs, or other masks.",
                "Look at model/modes, model/batch and model/inference.",
                of=name, right=_mean(answers),
            )  # fmt: skip


CHECK = Check("learning/one_batch", "does every head learn two images by heart, and the masks?", look, needs="learner")
CHECKS: tuple[Check, ...] = (CHECK,)
