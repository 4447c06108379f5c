"""The configuration: learning rate for its batch, schedule, batch and workers, loss weights, keys without effect."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from raytune_m2f.config import Config, known_keys
from raytune_m2f.config.fields.backbones import PACKAGE_PIXELS
from raytune_m2f.config.fields.base import is_fixed
from raytune_m2f.config.schema import AnyModelConfig
from raytune_m2f.data import shortest_edge_size
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.doctor.labels import noted
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.learner.optimizer import effective_lr
from raytune_m2f.learner.weight_files import check_source
from raytune_m2f.notes import Note
from raytune_m2f.study.space import SearchSpace
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


# Keys without effect


class Idle(NamedTuple):
    """Keys that nothing reads, and why."""

    why: str
    keys: tuple[str, ...]
    chooses: str  # the key that would have to be another


PUBLISHED_WARMUP = 10
"""Iterations: Mask2Former's own, with a WARMUP_FACTOR of 1."""


def idle_keys(config: Config) -> Iterator[Idle]:
    """What a configuration of our own network does not read, whatever it is set to."""
    former, solver, heads = config.MODEL.MASK_FORMER, config.SOLVER, config.DATASETS.SUBCATEGORIES
    for section, name in BACKBONES.items():
        if name != config.MODEL.BACKBONE.NAME:
            why = f"MODEL.BACKBONE.NAME is {config.MODEL.BACKBONE.NAME}"
            yield Idle(why, (f"MODEL.{section}.",), "MODEL.BACKBONE.NAME")
    if former.QUERY_SELECTION != "heatmap":
        yield Idle(
            f"{FORMER}.QUERY_SELECTION is none",
            (f"{FORMER}.HEATMAP_WEIGHT", f"{FORMER}.BLOB_WEIGHT"),
            f"{FORMER}.QUERY_SELECTION",
        )
    if not heads:
        yield Idle(
            "there are no subcategory heads (DATASETS.SUBCATEGORIES)",
            (f"{FORMER}.SUBCATEGORY_WEIGHT", f"{FORMER}.SUBCATEGORY_BALANCE", f"{FORMER}.TEST.RANKING"),
            "DATASETS.SUBCATEGORIES",
        )
    if {former.CLASS_BALANCE, former.SUBCATEGORY_BALANCE} <= {"none", "inverse_sqrt"}:
        yield Idle("no balance is effective_number", (f"{FORMER}.BALANCE_BETA",), f"{FORMER}.CLASS_BALANCE")
    if former.TEST.NMS_THRESHOLD == 1:
        key = f"{FORMER}.TEST.NMS_THRESHOLD"
        yield Idle(f"{key} = 1 keeps all", (f"{FORMER}.TEST.NMS_CLASS_AGNOSTIC",), key)
    switches = {
        "TEST.TILES": config.TEST.TILES.ENABLED,
        "INPUT.COPY_PASTE": config.INPUT.COPY_PASTE.ENABLED,
        "MODEL_EMA": config.MODEL_EMA.ENABLED,
        "SOLVER.AMP": solver.AMP.ENABLED,
        "SOLVER.CLIP_GRADIENTS": solver.CLIP_GRADIENTS.ENABLED,
    }
    for section, enabled in switches.items():
        if not enabled:
            yield Idle(f"{section}.ENABLED is false", (f"{section}.",), f"{section}.ENABLED")
    if not config.INPUT.START.ITERS:
        yield Idle("INPUT.START.ITERS is 0", ("INPUT.START.",), "INPUT.START.ITERS")
    kind = solver.LR_SCHEDULER_NAME
    for name, keys in SCHEDULES.items():
        if kind != name:
            yield Idle(f"SOLVER.LR_SCHEDULER_NAME is {kind}", keys, "SOLVER.LR_SCHEDULER_NAME")
    if solver.WARMUP_FACTOR == 1 and solver.WARMUP_ITERS > PUBLISHED_WARMUP:
        yield Idle(
            "SOLVER.WARMUP_FACTOR is 1: the rate starts at its height",
            ("SOLVER.WARMUP_ITERS", "SOLVER.WARMUP_METHOD"),
            "SOLVER.WARMUP_FACTOR",
        )
    if solver.LR_SCALING == "none":
        yield Idle("SOLVER.LR_SCALING is none", ("SOLVER.REFERENCE_BATCH",), SCALING)


BACKBONES = {
    "RESNETS": "build_resnet_backbone",
    "SWIN": "D2SwinTransformer",
    "MOBILENETV3": "build_mobilenet_v3_backbone",
    "EFFICIENTNET_LITE": "build_efficientnet_lite_backbone",
}
SCHEDULES = {
    "WarmupMultiStepLR": ("SOLVER.STEPS", "SOLVER.GAMMA"),
    "WarmupPolyLR": ("SOLVER.POLY_LR_POWER", "SOLVER.POLY_LR_CONSTANT_ENDING"),
}


def _unused(subject: Subject) -> Iterator[Finding]:
    config, space = subject.config, subject.space
    if isinstance(config, AnyModelConfig):
        yield UNUSED.skipped(f"the keys of {config.MODEL.META_ARCHITECTURE} are detectron2's")
        return
    searched = set(space.entries) if space is not None else set()
    changed = {
        key: config.value(key)
        for key, field in known_keys(Config).items()
        if config.knows(key) and not is_fixed(field) and config.value(key) != field.default
    }
    found = []
    for why, keys, chooses in idle_keys(config):
        if chooses in searched:
            continue
        idle = [key for key in changed if _is_below(key, keys) and key != chooses]
        if idle:
            set_to = ", ".join(f"{key} = {_plain(changed[key])}" for key in idle)
            found.append(
                UNUSED.warning(
                    f"without effect, for {why}: {set_to}",
                    "Nothing reads what was set there",
                    f"Set {chooses}, or remove the key.",
                    keys=idle,
                )
            )
    if space is not None:
        found += [UNUSED.warning(note.figure, note.meaning, note.remedy) for note in searched_in_vain(config, space)]
    yield from found or [
        UNUSED.ok(f"every key that was changed has an effect ({len(changed)} differ from their default)")
    ]


def searched_in_vain(config: Config, space: SearchSpace) -> Iterator[Note]:
    """Keys of a search space that nothing reads in any trial."""
    if isinstance(config, AnyModelConfig):
        return
    for why, keys, chooses in idle_keys(config):
        idle = [key for key in space.entries if _is_below(key, keys) and chooses not in space.entries]
        if idle:
            yield Note(
                UNUSED.name,
                f"{', '.join(idle)} {'is' if len(idle) == 1 else 'are'} searched, but changes nothing: {why}",
                "",
                f"Copy the search space without it, or set {chooses}",
            )


def _is_below(key: str, keys: tuple[str, ...]) -> bool:
    return any(key == one or (one.endswith(".") and key.startswith(one)) for one in keys)


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value


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


# Search space


def _space(subject: Subject) -> Iterator[Finding]:
    config, space = subject.config, subject.space
    if space is None:
        yield SPACE.skipped("no search space was given (--space)")
        return
    found = []
    batches = space.span(BATCH, config)
    if BATCH in space.entries and BATCH not in space.conditional and config.SOLVER.LR_SCALING == "none":
        found.append(
            SPACE.warning(
                f"{BATCH} is searched from {batches[0]:g} to {batches[1]:g} while {SCALING} is none",
                "The best learning rate moves with the batch, so the search mixes up the two",
                f"Set {SCALING}=sqrt: {LR} is then meant for SOLVER.REFERENCE_BATCH images.",
            )
        )
    if LR in space.entries and not isinstance(config, AnyModelConfig):
        found += _searched_rates(config, space)
    yield from found or [SPACE.ok(f"{len(space.entries)} keys are searched: {', '.join(space.entries)}")]


def _searched_rates(config: Config, space: SearchSpace) -> Iterator[Finding]:
    factor = effective_lr(config) / config.SOLVER.BASE_LR
    low, high = (rate * factor for rate in space.span(LR, config))
    published, batch = published_for(config), config.SOLVER.IMS_PER_BATCH
    wanted = sorted(published.scaled(batch))
    if wanted[1] * TOO_HIGH < low or wanted[0] > high * TOO_HIGH:
        yield SPACE.warning(
            f"{LR} is searched where the rate is {low:.1g} to {high:.1g} at batch {batch}, but {published.recipe} asks "
            f"for {wanted[0]:.1g}" + (f" to {wanted[1]:.1g}" if wanted[0] < wanted[1] else ""),
            "The best rate lies probably outside",
            "Widen the range, in a copy of the search space.",
        )


RATE = Check("configuration/learning_rate", "does the learning rate fit the batch", _learning_rate, "config", True)
SCHEDULE = Check("configuration/schedule", "do schedule, periods and length go together", _schedule, quick=True)
BATCHES = Check("configuration/batch", "does the batch fit images, workers and norm", _batch, quick=True)
LOSSES = Check("configuration/losses", "does every part of the network have a loss", _losses, "config", True)
UNUSED = Check("configuration/unused", "has every key that was set an effect", _unused, "config", True)
START = Check("configuration/weights", "do weights, pixels and set size go together", _weights, quick=True)
SIZES = Check("configuration/sizes", "are test images as large as training images", _sizes, quick=True)
SPACE = Check("configuration/space", "does the search space hold what is known to work", _space, quick=True)

CHECKS: tuple[Check, ...] = (RATE, SCHEDULE, BATCHES, LOSSES, UNUSED, START, SIZES, SPACE)
