"""The configuration: learning rate for its batch, schedule, batch and workers, loss weights, what is scored."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from raytune_m2f.config import Config, known_keys
from raytune_m2f.config.fields.backbones import PACKAGE_PIXELS
from raytune_m2f.config.schema import AnyModelConfig
from raytune_m2f.data import shortest_edge_size
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.doctor.labels import noted
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.learner.optimizer import effective_lr
from raytune_m2f.learner.weight_files import check_source
from raytune_m2f.training.check import BATCH, FROZEN_RES5, check_batch, check_batch_norm, norm_key

LR, SCALING = "SOLVER.BASE_LR", "SOLVER.LR_SCALING"
FORMER = "MODEL.MASK_FORMER"


# Learning rate


class Published(NamedTuple):
    """A learning rate that is known to work, the batch that it was used with, and where."""

    rate: float
    batch: int
    recipe: str

    def scaled(self, batch: int) -> tuple[float, float]:
        """What linear (Goyal et al. 2017) and square-root scaling make of it for another batch."""
        ratio = batch / self.batch
        return self.rate * ratio, self.rate * math.sqrt(ratio)


COCO = Published(1e-4, 16, "Mask2Former's on COCO")
SMALL = Published(1e-3, 2, "small_data's")
NARROW = 128
"""Channels of the transformer decoder up to which a network is small_data's kind: so narrow ones bear a higher rate."""
TOO_HIGH, TOO_LOW = 2.0, 30.0
"""Factors beyond what both rules say. Too high is the dearer mistake: AP 0 instead of a slow start."""


def published_for(config: Config) -> Published:
    """The recipe that a configuration of our own network is nearest to."""
    return SMALL if config.MODEL.MASK_FORMER.HIDDEN_DIM <= NARROW else COCO


def _learning_rate(subject: Subject) -> Iterator[Finding]:
    config = subject.config
    if isinstance(config, AnyModelConfig):
        yield RATE.skipped(f"no published rate is known here for {config.MODEL.META_ARCHITECTURE}")
        return
    rate, batch, published = effective_lr(config), config.SOLVER.IMS_PER_BATCH, published_for(config)
    linear, root = published.scaled(batch)
    low, high = sorted((linear, root))
    said = f"the learning rate is {rate:.2g} at batch {batch}"
    rules = f"{published.recipe} is {published.rate:g} at batch {published.batch}"
    if low < high:
        rules += f", so {linear:.2g} by linear and {root:.2g} by square-root scaling"
    values = {"effective": rate, "batch": batch, "linear": linear, "sqrt": root}
    advice = f"Set {LR}={low:.1g} to {high:.1g}" if low < high else f"Set {LR}={low:.1g}"
    kept = f"{LR}={published.rate:g} SOLVER.REFERENCE_BATCH={published.batch} {SCALING}=sqrt"
    remedy = f"{advice}, or {kept}, which follows the batch; or search it (--space learning_rate)."
    if rate > TOO_HIGH * high:
        left = " The rate seems to be left as it was while the batch was lowered." if rate == published.rate else ""
        yield RATE.warning(
            f"{said}: {rate / high:.1f} times as high as it should be ({rules})",
            f"Too high a rate ends at AP 0, with a loss that hardly falls.{left}",
            remedy,
            **values,
        )
    elif rate < low / TOO_LOW:
        yield RATE.warning(
            f"{said}: {low / rate:.0f} times as low as it should be ({rules})",
            "The training ends before it has learned much",
            remedy,
            **values,
        )
    else:
        yield RATE.ok(f"{said}; {rules}", **values)


# Schedule, batch


def _schedule(subject: Subject) -> Iterator[Finding]:
    config, solver = subject.config, subject.config.SOLVER
    found = noted(SCHEDULE, subject)
    end, images = solver.MAX_ITER, subject.summary.images
    epochs = end * solver.IMS_PER_BATCH / max(images, 1)
    if epochs < 1:
        found.append(
            SCHEDULE.warning(
                f"{end} iterations of {solver.IMS_PER_BATCH} images see {epochs:.0%} of the {images} training images",
                "The others are never seen",
                f"Raise SOLVER.MAX_ITER to {math.ceil(images / solver.IMS_PER_BATCH)} or more.",
                epochs=epochs,
            )
        )
    if not isinstance(config, AnyModelConfig):
        found += _rates_of(config)
    period = config.TEST.EVAL_PERIOD
    if min(period or end, solver.CHECKPOINT_PERIOD) >= end >= LONG:
        found.append(
            SCHEDULE.warning(
                f"no checkpoint before the end, of {end} iterations (SOLVER.CHECKPOINT_PERIOD = "
                f"{solver.CHECKPOINT_PERIOD}, TEST.EVAL_PERIOD = {period})",
                "A training that is killed begins anew",
                f"Set SOLVER.CHECKPOINT_PERIOD={end // 10}.",
            )
        )
    scored = f"scored each {period}" if 0 < period < end else "scored at the end"
    figure = f"{end} iterations of {solver.IMS_PER_BATCH} images: {epochs:.3g} times each of {images} images; {scored}"
    yield from found or [SCHEDULE.ok(figure, epochs=epochs)]


LONG = 1000
"""Iterations whose loss would hurt."""


def _rates_of(config: Config) -> Iterator[Finding]:
    solver = config.SOLVER
    end, steps = solver.MAX_ITER, solver.STEPS
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and steps and steps[0] >= end:
        yield SCHEDULE.warning(
            f"SOLVER.STEPS = {list(steps)} lie beyond SOLVER.MAX_ITER = {end}",
            "The learning rate never falls, and the last weights are as noisy as the first",
            f"Set SOLVER.STEPS=[{max(1, end * 8 // 9)},{max(2, end * 26 // 27)}], the published shares, or "
            "SOLVER.LR_SCHEDULER_NAME=WarmupCosineLR.",
        )
    if end / 2 < solver.WARMUP_ITERS and solver.WARMUP_FACTOR < 1:
        yield SCHEDULE.warning(
            f"SOLVER.WARMUP_ITERS = {solver.WARMUP_ITERS} of SOLVER.MAX_ITER = {end}",
            "The learning rate reaches its height late or never",
            f"Set SOLVER.WARMUP_ITERS={max(1, end // 10)}.",
        )


FEW_AT_ONCE = 4
"""Images below which statistics of batch norm are noise (Wu and He, Group Normalization, 2018, figure 1)."""


def _batch(subject: Subject) -> Iterator[Finding]:
    config, space = subject.config, subject.space
    batch, images, workers = config.SOLVER.IMS_PER_BATCH, subject.summary.images, subject.workers
    searched = space is not None and BATCH in space.entries
    smallest, largest = space.span(BATCH, config) if space is not None and searched else (batch, batch)
    check_batch(config, subject.engine, largest if searched else None)
    check_batch_norm(config)
    found = []
    if smallest < workers:
        found.append(
            BATCHES.problem(
                f"{BATCH} {'can be' if searched else 'is'} {smallest:g}, but there are {workers} workers",
                "Each needs an image at least",
                "Raise the batch, or give fewer --workers-per-trial.",
            )
        )
    elif batch % workers:
        found.append(
            BATCHES.warning(
                f"{BATCH} = {batch} cannot be shared evenly by {workers} workers",
                "Some have an image more, for which the others wait in every step",
                f"Set {BATCH}={batch - batch % workers} or {batch + workers - batch % workers}.",
            )
        )
    at_once = config.SOLVER.MICRO_BATCH or -(-batch // workers)
    found += _noisy_norm(config, batch, at_once)
    share = f", {at_once} at once on each of {workers} workers" if workers > 1 or at_once != batch else ""
    yield from found or [BATCHES.ok(f"batch {batch} of {images} images{share}")]


def _noisy_norm(config: Config, batch: int, at_once: int) -> Iterator[Finding]:
    key = norm_key(config)
    if key is None or config.value(key) not in ("BN", "SyncBN") or config.MODEL.BACKBONE.FREEZE_AT >= FROZEN_RES5:
        return
    seen = batch if config.value(key) == "SyncBN" else at_once
    if seen < FEW_AT_ONCE:
        instead = ", GN without" if key == "MODEL.RESNETS.NORM" else ""
        yield BATCHES.warning(
            f"{key} = {config.value(key)} with {seen} image{'s' if seen > 1 else ''} at once",
            "Statistics of so few images are noise, and training and evaluation then differ",
            f"Set {key}=FrozenBN or FrozenStatsBN with pretrained weights{instead}, or take more images at once.",
        )


# Losses

WEIGHTS = {"CLASS_WEIGHT": 2.0, "MASK_WEIGHT": 5.0, "DICE_WEIGHT": 5.0}
"""Mask2Former's."""
TEACHES = {
    "CLASS_WEIGHT": "the main category",
    "MASK_WEIGHT": "the masks' pixels",
    "DICE_WEIGHT": "the masks' overlap",
    "SUBCATEGORY_WEIGHT": "the subcategory heads",
    "HEATMAP_WEIGHT": "where objects are (the heat map)",
    "BLOB_WEIGHT": "the objects' centres and sizes",
}
FAR = 10.0
"""Factor between a weight and its published share of the sum."""


def _losses(subject: Subject) -> Iterator[Finding]:
    config = subject.config
    if isinstance(config, AnyModelConfig):
        yield LOSSES.skipped(f"the losses of {config.MODEL.META_ARCHITECTURE} are detectron2's")
        return
    former, found = config.MODEL.MASK_FORMER, []
    used = [*WEIGHTS]
    used += ["SUBCATEGORY_WEIGHT"] if config.DATASETS.SUBCATEGORIES else []
    used += ["HEATMAP_WEIGHT", "BLOB_WEIGHT"] if former.QUERY_SELECTION == "heatmap" else []
    weights: dict[str, float] = {name: getattr(former, name) for name in used}
    for name, weight in weights.items():
        if weight == 0:
            of = f" ({', '.join(config.DATASETS.SUBCATEGORIES)})" if name == "SUBCATEGORY_WEIGHT" else ""
            found.append(
                LOSSES.warning(
                    f"{FORMER}.{name} is 0: nothing teaches {TEACHES[name]}{of}",
                    "What has no loss stays as it was drawn at the start",
                    f"Set {FORMER}.{name}={known_keys(Config)[f'{FORMER}.{name}'].default:g}"
                    + (", or take the heads out of DATASETS.SUBCATEGORIES." if of else "."),
                )
            )
    found += _balance(weights)
    if not MOST_NO_OBJECT >= former.NO_OBJECT_WEIGHT >= LEAST_NO_OBJECT:
        high = former.NO_OBJECT_WEIGHT > MOST_NO_OBJECT
        found.append(
            LOSSES.warning(
                f"{FORMER}.NO_OBJECT_WEIGHT is {former.NO_OBJECT_WEIGHT:g}, published is 0.1",
                "Most queries have no object: with so much weight all are predicted as background"
                if high
                else "Queries without an object are hardly taught to say so: many false detections",
                f"Set {FORMER}.NO_OBJECT_WEIGHT=0.1, or search it from 0.02 to 0.5 (--space queries).",
            )
        )
    yield from found or [LOSSES.ok(", ".join(f"{name} {weight:g}" for name, weight in weights.items()))]


MOST_NO_OBJECT, LEAST_NO_OBJECT = 1.0, 0.005


def _balance(weights: Mapping[str, float]) -> Iterator[Finding]:
    """Of the weights that Mask2Former has too, those whose share of their sum is far from its."""
    total, published = sum(weights[name] for name in WEIGHTS), sum(WEIGHTS.values())
    for name, weight in WEIGHTS.items():
        if weights[name] and not 1 / FAR <= weights[name] / total * published / weight <= FAR:
            yield LOSSES.warning(
                f"{FORMER}.{name} is {weights[name]:g} of {total:g} (with CLASS, MASK and DICE), published is "
                f"{weight:g} of {published:g}",
                f"So little weight hardly teaches {TEACHES[name]}"
                if weights[name] / total < weight / published
                else "So much weight drowns the other losses",
                "Go back to the published 2, 5 and 5, or search their balance (--space loss_weights).",
            )


# Weights

IMAGENET = ((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
"""PIXEL_MEAN and PIXEL_STD of torchvision's weights, and of Mask2Former's own."""
NEAR = 5.0
"""Levels of 255 by which a mean may differ."""
SMALL_SET = 2000
"""Images below which a backbone from scratch costs most of the score (docs/recipe.md)."""


def _weights(subject: Subject) -> Iterator[Finding]:
    config, source = subject.config, subject.config.MODEL.WEIGHTS
    check_source(source)
    if isinstance(config, AnyModelConfig):
        yield START.ok(f"MODEL.WEIGHTS = {source!r}")
        return
    model, images, found = config.MODEL, subject.summary.images, []
    if source:
        mean, std = PACKAGE_PIXELS.get(source, IMAGENET)
        known = source in PACKAGE_PIXELS or source.startswith(
            ("torchvision://", "detectron2://ImageNetPretrained/torch")
        )
        differing = max(abs(a - b) for a, b in zip((*mean, *std), (*model.PIXEL_MEAN, *model.PIXEL_STD), strict=True))
        if known and differing > NEAR:
            found.append(
                START.warning(
                    f"MODEL.PIXEL_MEAN = {list(model.PIXEL_MEAN)}, PIXEL_STD = {list(model.PIXEL_STD)}, but {source} "
                    f"was trained with {list(mean)} and {list(std)}",
                    "The backbone sees other numbers than it was trained on",
                    "Give these, or leave the keys out.",
                )
            )
    elif images < SMALL_SET:
        found.append(
            START.warning(
                f'MODEL.WEIGHTS is "": the network starts from nothing, with {images} training images',
                "Pretrained weights are most of the score of a small set: AP 18 instead of 3 on 13 photographs",
                "Build on small_data.yaml, or give MODEL.WEIGHTS (docs/recipe.md).",
            )
        )
    if not source and config.SOLVER.BACKBONE_MULTIPLIER < 1:
        found.append(
            START.warning(
                f'SOLVER.BACKBONE_MULTIPLIER is {config.SOLVER.BACKBONE_MULTIPLIER:g} with MODEL.WEIGHTS ""',
                "A backbone that starts from nothing learns slower than the rest of the network",
                "Set SOLVER.BACKBONE_MULTIPLIER=1, or give MODEL.WEIGHTS.",
            )
        )
    yield from found or [START.ok(f"MODEL.WEIGHTS = {source!r}, PIXEL_MEAN = {list(model.PIXEL_MEAN)}")]


# Sizes


def _sizes(subject: Subject) -> Iterator[Finding]:
    config = subject.config
    if isinstance(config, AnyModelConfig):
        yield SIZES.skipped(f"the sizes of {config.MODEL.META_ARCHITECTURE} are detectron2's")
        return
    given, records = config.INPUT, [record for _, dataset in subject.parts for record in dataset.records]
    low, high = (round(given.IMAGE_SIZE * scale) for scale in (given.MIN_SCALE, given.MAX_SCALE))
    longest = sorted(
        max(shortest_edge_size(r.height, r.width, given.MIN_SIZE_TEST, given.MAX_SIZE_TEST)) for r in records
    )
    if not longest:
        yield SIZES.skipped("the engine has no images to show")
        return
    middle = longest[len(longest) // 2]
    said = f"the longer side of a test image is {middle} pixels in the network, of a training image {low} to {high}"
    if low / NEARLY <= middle <= high * NEARLY:
        yield SIZES.ok(said, test=middle, train=[low, high])
        return
    yield SIZES.warning(
        f"{said} (before it is cut to INPUT.IMAGE_SIZE = {given.IMAGE_SIZE})",
        f"Objects of a test image are then {'larger' if middle > high else 'smaller'} than any that was learned from",
        f"Set INPUT.MIN_SIZE_TEST and MAX_SIZE_TEST between {low} and {high}, or change INPUT.IMAGE_SIZE, MIN_SCALE "
        "and MAX_SCALE.",
        test=middle,
        train=[low, high],
    )


NEARLY = 1.1


# Optimizer

PUBLISHED_DECAY, MOST_DECAY = 0.05, 0.5
LEAST_CLIP = 1e-5
"""A gradient of so small a norm is below AdamW's epsilon (1e-8) in each of millions of weights."""


def _optimizer(subject: Subject) -> Iterator[Finding]:
    config = subject.config
    if isinstance(config, AnyModelConfig):
        yield OPTIMIZER.skipped(f"the optimizer of {config.MODEL.META_ARCHITECTURE} is detectron2's")
        return
    solver, frozen, found = config.SOLVER, config.MODEL.BACKBONE.FREEZE_AT, []
    if solver.WEIGHT_DECAY > MOST_DECAY:
        found.append(
            OPTIMIZER.warning(
                f"SOLVER.WEIGHT_DECAY is {solver.WEIGHT_DECAY:g}, published is {PUBLISHED_DECAY:g}",
                "Weights shrink faster than they learn",
                f"Set SOLVER.WEIGHT_DECAY={PUBLISHED_DECAY:g}.",
            )
        )
    clip = solver.CLIP_GRADIENTS
    if clip.ENABLED and clip.CLIP_VALUE < LEAST_CLIP:
        found.append(
            OPTIMIZER.warning(
                f"SOLVER.CLIP_GRADIENTS.CLIP_VALUE is {clip.CLIP_VALUE:g}, published is 0.01",
                "Gradients so small are lost in AdamW's epsilon, so that hardly anything learns",
                "Set SOLVER.CLIP_GRADIENTS.CLIP_VALUE=0.01.",
            )
        )
    if solver.BACKBONE_MULTIPLIER == 0 and frozen < FROZEN_RES5:
        found.append(
            OPTIMIZER.warning(
                "SOLVER.BACKBONE_MULTIPLIER is 0: the backbone does not learn, but its gradients are computed",
                "Time and memory are spent on what is thrown away",
                "Set MODEL.BACKBONE.FREEZE_AT=5 if that is meant, else SOLVER.BACKBONE_MULTIPLIER=0.1.",
            )
        )
    yield from found or [
        OPTIMIZER.ok(
            f"AdamW, decay {solver.WEIGHT_DECAY:g}, gradients clipped at {clip.CLIP_VALUE:g}"
            if clip.ENABLED
            else f"AdamW, decay {solver.WEIGHT_DECAY:g}"
        )
    ]


# What is scored

FIRST_WEIGHTS = 0.05
"""Share of the first weights in the averaged ones at the end, from which on they are not those of a training."""
SIEVED = {"CLASS_THRESHOLD": 0.3, "SUBCATEGORY_THRESHOLD": 0.5}
"""From here on detections are left out that AP would still count."""
OVERLAPPING = 0.3
"""IoU of masks below which two objects that touch or cover each other are taken for one."""
FEW_IMAGES, FEW_INSTANCES = 8, 50
"""Of TEST.SUBSET: a score of less is mostly noise."""
LONE_IMAGES = 3
"""Of a whole test set: fewer images say nothing of others."""


def _evaluation(subject: Subject) -> Iterator[Finding]:
    config, found = subject.config, [*_subset(subject)]
    if not isinstance(config, AnyModelConfig):
        found += [*_averaged(config), *_sieved(config)]
    yield from found or [EVALUATION.ok("what is scored is what was learned, with nothing left out that AP counts")]


def _averaged(config: Config) -> Iterator[Finding]:
    average, end = config.MODEL_EMA, config.SOLVER.MAX_ITER
    if not average.ENABLED:
        return
    steps = np.arange(2, min(end, LONGEST) + 1)  # the first one begins the average
    warm = average.DECAY_WARM_UP_FACTOR
    rising = (1 + steps) / (warm + steps) if warm >= 0 else np.ones(len(steps))
    left = float(np.prod(np.minimum(average.DECAY, rising)))
    if left > FIRST_WEIGHTS:
        yield EVALUATION.warning(
            f"{left:.0%} of the averaged weights are still the first ones after {end} iterations (MODEL_EMA.DECAY = "
            f"{average.DECAY:g}, DECAY_WARM_UP_FACTOR = {warm})",
            "What is scored and exported is not what was learned",
            f"Set MODEL_EMA.DECAY={1 - 10 / max(end, 20):.3g}, or DECAY_WARM_UP_FACTOR=10.",
        )


LONGEST = 100_000
"""Iterations after which nothing is left of the first weights, whatever the decay of a sensible configuration."""


def _sieved(config: Config) -> Iterator[Finding]:
    test = config.MODEL.MASK_FORMER.TEST
    for name, most in SIEVED.items():
        value = getattr(test, name)
        if value >= most:
            yield EVALUATION.warning(
                f"{FORMER}.TEST.{name} is {value:g}: detections below it are neither scored nor exported",
                "AP counts unsure detections too, and falls without them",
                "Set it to 0 for the training, and choose a sieve for the exported model (evaluate --rankings).",
            )
    if test.NMS_THRESHOLD < OVERLAPPING:
        yield EVALUATION.warning(
            f"{FORMER}.TEST.NMS_THRESHOLD is {test.NMS_THRESHOLD:g}: of two masks that overlap more than this, one is "
            "left out",
            "Objects that cover each other become one",
            f"Set {FORMER}.TEST.NMS_THRESHOLD to 0.5 or more, or 1 for none.",
        )


def _subset(subject: Subject) -> Iterator[Finding]:
    size, datasets = subject.config.TEST.SUBSET, subject.datasets
    if len(subject.summary.test.categories) and (images := subject.summary.test.images) < LONE_IMAGES:
        yield EVALUATION.warning(
            f"the test set has {images} {'image' if images == 1 else 'images'}",
            "A score of so few is mostly chance: it says little of other images, and cannot tell two trials apart",
            "Annotate more, or move images from the training set (`raytune-m2f init --val 0.3` divides anew).",
        )
        return
    if not size or datasets is None or size >= len(datasets.test):
        return
    instances = sum(len(record.instances) for record in datasets.test_subset.records)
    if size < FEW_IMAGES or instances < FEW_INSTANCES:
        yield EVALUATION.warning(
            f"TEST.SUBSET = {size}: all scores but the last are of {size} images with {instances} instances, of "
            f"{len(datasets.test)} images",
            "Such scores are mostly noise, and by them trials are stopped and the best weights chosen",
            f"Raise TEST.SUBSET, or set it to 0 for all {len(datasets.test)} images.",
        )


RATE = Check("configuration/learning_rate", "does the learning rate fit the batch?", _learning_rate, "config", True)
SCHEDULE = Check("configuration/schedule", "do schedule, periods and length go together?", _schedule, quick=True)
BATCHES = Check("configuration/batch", "does the batch fit images, workers and norm?", _batch, quick=True)
LOSSES = Check("configuration/losses", "does every part of the network have a loss?", _losses, "config", True)
START = Check("configuration/weights", "do weights, pixels and set size go together?", _weights, quick=True)
SIZES = Check("configuration/sizes", "are test images as large as training images?", _sizes, quick=True)
OPTIMIZER = Check(
    "configuration/optimizer", "do decay and clipping leave something to learn?", _optimizer, "config", True
)
EVALUATION = Check("configuration/evaluation", "is what is scored what was learned?", _evaluation, quick=True)

CHECKS: tuple[Check, ...] = (RATE, SCHEDULE, BATCHES, LOSSES, OPTIMIZER, START, SIZES, EVALUATION)
