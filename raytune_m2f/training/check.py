"""What can go wrong, known before the first step: of data and configuration, and of a checkpoint to resume from."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from raytune_m2f.config import Config
from raytune_m2f.data import Categories
from raytune_m2f.data.summary import cap_notes
from raytune_m2f.engines import Engine
from raytune_m2f.errors import ConfigError, DatasetError, StudyError, closest
from raytune_m2f.evaluation.subcategories import OF_FOUND_ALONE
from raytune_m2f.learner.vitals import vital_keys
from raytune_m2f.notes import Note
from raytune_m2f.training.checkpoint import Checkpoint, newest_first
from raytune_m2f.training.objective import Constraint, Objective, quoted

BATCH = "SOLVER.IMS_PER_BATCH"
QUERIES = "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES"
PERIOD = "TEST.EVAL_PERIOD"
START = "INPUT.START.ITERS"
NORMS = {
    "build_resnet_backbone": "MODEL.RESNETS.NORM",
    "build_mobilenet_v3_backbone": "MODEL.MOBILENETV3.NORM",
    "build_efficientnet_lite_backbone": "MODEL.EFFICIENTNET_LITE.NORM",
}
FROZEN_RES5 = 5  # MODEL.BACKBONE.FREEZE_AT
COARSEST = 32  # pixels a cell of the coarsest map
MOST_KEYS = 8  # that a message names
USAGE = ("loss", "seconds", "latency_ms", "memory_gb", "images")
"""Entries of a report beside the evaluator's that a study may maximise or bound."""

log = logging.getLogger(__name__)


# Data and configuration


def check_experiment(
    config: Config,
    engine: Engine,
    *,
    asked: Sequence[Objective | Constraint] = (),
    largest_batch: float | None = None,
    fewest_queries: float | None = None,
) -> list[str]:
    """Compare the data that were read with the configuration, the metrics and the constraints.

    Args:
        asked: metrics and constraints, whose keys the reports must have.
        largest_batch, fewest_queries: of a search space; otherwise the configuration's.

    Returns:
        notes for the user: allowed, but seldom intended.

    Raises:
        DatasetError: the data make no sense, or there is nothing to learn or to find.
        ConfigError: a global batch is larger than the training set, or batch norm would see a single number.
        StudyError: a metric or a constraint names what no report has.
    """
    engine.summary.require_usable()
    check_batch(config, engine, largest_batch)
    check_batch_norm(config)
    check_keys(config, engine, asked)
    objectives = [entry for entry in asked if isinstance(entry, Objective)]
    notes = [*engine.summary.notes(), *notes_on(config, engine, fewest_queries)]
    return [*(note.text for note in notes), *_of_found_alone(engine, objectives)]


def check_training(config: Config, engine: Engine, *, logs: bool) -> None:
    """`check_experiment` before a training; if it `logs`, what was read and the notes are logged."""
    if logs:
        log.info("%s", engine.summary.text())
    notes = check_experiment(config, engine)
    if not logs:
        return
    if config.TEST.EVAL_PERIOD == 0:
        log.info("%s = 0: the training is evaluated only at its end, at iteration %d", PERIOD, config.SOLVER.MAX_ITER)
    for note in notes:
        log.warning("%s", note)


def check_batch(config: Config, engine: Engine, largest: float | None = None) -> None:
    """Raises ConfigError if a global batch, or the `largest` of a search space, has more images than there are."""
    verb, batch = ("is", config.SOLVER.IMS_PER_BATCH) if largest is None else ("can be", largest)
    images = engine.summary.images
    if batch > images:
        files = ", ".join(part.file for part in engine.summary.train)
        raise ConfigError(
            f"{BATCH} {verb} {batch:g}, but there are {images} images to train on ({files}): a step would see an image "
            f"more than once. Lower it to {images} at most"
            + ("." if verb == "is" else ", in a copy of the search space, or take one without it (learning_rate).")
        )


def check_batch_norm(config: Config) -> None:
    """Raises ConfigError where batch norm would learn from one image whose coarsest map has one cell."""
    norm = norm_key(config)
    if norm is None:
        return
    divisibility = config.MODEL.MASK_FORMER.SIZE_DIVISIBILITY
    smallest, key = config.INPUT.IMAGE_SIZE, "INPUT.IMAGE_SIZE"
    if config.INPUT.START.ITERS and smallest > config.INPUT.START.IMAGE_SIZE:
        smallest, key = config.INPUT.START.IMAGE_SIZE, "INPUT.START.IMAGE_SIZE"
    side = -(-smallest // divisibility) * divisibility
    at_once = config.SOLVER.MICRO_BATCH or config.SOLVER.IMS_PER_BATCH
    learns = config.MODEL.BACKBONE.FREEZE_AT < FROZEN_RES5
    if learns and config.value(norm) == "BN" and side <= COARSEST and at_once == 1:
        raise ConfigError(
            f"{norm} = 'BN' with {key} = {smallest} and one image at once: batch norm needs more than one value of "
            f"each channel, and the coarsest map has one cell. Raise {key}, take more images at once, or NORM GN, "
            "FrozenBN or FrozenStatsBN."
        )


def norm_key(config: Config) -> str | None:
    """The key of the backbone's normalisation; None for Swin, which has LayerNorm, and for other networks."""
    return NORMS.get(config.MODEL.BACKBONE.NAME) if config.knows(QUERIES) else None


def notes_on(config: Config, engine: Engine, fewest_queries: float | None = None) -> Iterator[Note]:
    """What of the configuration is allowed for these data, but seldom intended.

    Args:
        fewest_queries: of a search space; otherwise the configuration's.
    """
    yield from _query_notes(config, engine, fewest_queries)
    test = engine.summary.test
    yield from cap_notes(test.file, test.most_instances, config.TEST.DETECTIONS_PER_IMAGE)
    period, end = config.TEST.EVAL_PERIOD, config.SOLVER.MAX_ITER
    if period > end:
        yield Note(
            "configuration/schedule",
            f"{PERIOD} = {period} is beyond SOLVER.MAX_ITER = {end}: the training is evaluated only at its end",
            "",
            f"Give {PERIOD}={max(1, end // 10)}, say, or 0 if that is meant",
        )
    if config.knows(START) and (start := config.value(START)) >= end:
        yield Note(
            "configuration/schedule",
            f"{START} = {start} is not below SOLVER.MAX_ITER = {end}: no iteration has images of INPUT.IMAGE_SIZE = "
            f"{config.INPUT.IMAGE_SIZE} pixels, all have {config.INPUT.START.IMAGE_SIZE}",
            "",
            f"Lower {START}",
        )


def _query_notes(config: Config, engine: Engine, fewest: float | None) -> Iterator[Note]:
    topic, queries = "data/instances", _queries(config) if fewest is None else fewest
    has = f"{QUERIES} {'is' if fewest is None else 'can be'} {queries:g}"
    most, remedy = engine.summary.most_instances, f"Raise {QUERIES}"
    if config.knows(QUERIES) and not config.TEST.TILES.ENABLED:  # each window of a test image has its own queries
        most = max(most, engine.summary.test.most_instances)
    if queries < most:
        yield Note(topic, f"an image has {most} instances, but {has}: they cannot all be found", "", remedy)
    elif queries < engine.most_instances:
        yield Note(
            topic,
            f"an image can have {engine.most_instances} instances with those that are pasted (INPUT.COPY_PASTE), but "
            f"{has}: of a fuller one so many are learned",
            "",
            f"{remedy}, or lower INPUT.COPY_PASTE.MAX_INSTANCES",
        )


def _of_found_alone(engine: Engine, objectives: Sequence[Objective]) -> Iterator[str]:
    """Metrics that are the higher the fewer, and easier, instances are found."""
    measures = {f"{head}/{name}": head for head in engine.categories.subcategories for name in OF_FOUND_ALONE}
    for key in dict.fromkeys(key for objective in objectives for weight, key in objective.terms if weight > 0):
        if key in measures:
            yield (
                f"{key} is of the instances that were found alone: a trial that finds one of many can have 100. "
                f"segm/AP_joint_{measures[key]} and {measures[key]}/found_and_right count what was not found, too"
            )


def _queries(config: Config) -> float:
    return float(config.value(QUERIES)) if config.knows(QUERIES) else math.inf  # of our own network only


def check_keys(config: Config, engine: Engine, asked: Sequence[Objective | Constraint]) -> None:
    """Raises StudyError for metrics and constraints that no report will have, or that would be NaN in every report."""
    wanted = {key for entry in asked for key in entry.keys} - {config.metric, *USAGE}
    if not wanted:
        return  # the evaluation of nothing, which tells all keys, takes a while on a large test set
    for subset in (False, True) if config.TEST.SUBSET else (False,):
        scores = engine.evaluator(subset=subset).evaluate()
        known = [
            *USAGE,
            *(vital_keys(engine.categories.subcategories) if config.knows(QUERIES) else ()),
            *(key for key, value in scores.items() if math.isfinite(value)),
        ]
        part = f" on the images of TEST.SUBSET = {config.TEST.SUBSET}" if subset else ""
        for key in sorted(wanted - set(known)):
            if key in scores:
                raise StudyError(
                    f"every report would have {key!r} as NaN{part}: {engine.summary.test.file} has nothing there that "
                    "it measures"
                )
            close = closest(key, known)
            hint = f" Did you mean {quoted(close)}?" if close else ""
            raise StudyError(f"no report will have {key!r}{part}.{hint} Allowed: {', '.join(map(quoted, known))}")


# A checkpoint


def require_same_training(state: Checkpoint, config: Config, engine: Engine, network: nn.Module, folder: Path) -> None:
    """Compare a checkpoint of `folder` with the training that resumes from it; other data are worth a warning.

    Raises:
        DatasetError: the labels differ.
        ConfigError: the network differs, or what of it learns.
    """
    weights = next(iter(newest_first(folder)), folder)
    anew = f"start anew in another directory, with MODEL.WEIGHTS={weights} to take over what fits"
    known = Categories.from_dict(state["categories"], source=str(weights))
    if problems := label_differences(known, engine.categories):
        listed = "\n  ".join(problems)
        raise DatasetError(
            f"cannot go on from {weights}: the data have other labels than it was trained on.\n  {listed}\n"
            f"Give the data that it was trained on, or {anew}."
        )
    if other := _other_tensors(state["model"], network.state_dict()):
        raise ConfigError(
            f"cannot go on from {weights}: it is of another network, {len(other)} tensors differ, e.g. {other[0]}. "
            f"{_changed_keys(state['config'], config)}\nGive the values that it was trained with, or {anew}."
        )
    then_learned = sum(len(group["params"]) for group in state["optimizer"]["param_groups"])
    if then_learned != (learned := sum(parameter.requires_grad for parameter in network.parameters())):
        raise ConfigError(
            f"cannot go on from {weights}: {then_learned} tensors learned then, {learned} would now. "
            f"{_changed_keys(state['config'], config)}\nGive the values that it was trained with, or {anew}."
        )
    then, now = state.get("data"), engine.summary.identity  # not in checkpoints of before 2026-11-26
    if then is not None and then != now:
        log.warning(
            "the data have changed since the checkpoint: %s then; %s now. Scores of before and after are not of the "
            "same data.",
            _counts(then),
            _counts(now),
        )


def _other_tensors(theirs: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> list[str]:
    """Names that only one has, or that are of another shape."""
    names = dict.fromkeys((*own, *theirs))
    return [n for n in names if n not in own or n not in theirs or own[n].shape != theirs[n].shape]


def label_differences(before: Categories, now: Categories) -> list[str]:
    """What differs in names and their order, in words; ids may change, for no label depends on them."""
    pairs: list[tuple[str, tuple[str, ...] | None, tuple[str, ...] | None]] = [("categories", before.names, now.names)]
    for head in dict.fromkeys((*before.subcategories, *now.subcategories)):
        pairs.append((f"subcategory {head!r}", before.subcategories.get(head), now.subcategories.get(head)))
    return [
        f"{what}: the checkpoint knows {_names(theirs)}; the data have {_names(ours)}"
        + (" (another order)" if sorted(theirs or ()) == sorted(ours or ()) else "")
        for what, theirs, ours in pairs
        if theirs != ours
    ]


def _names(names: tuple[str, ...] | None) -> str:
    return "none" if names is None else ", ".join(names)


def _changed_keys(before: Mapping[str, Any], config: Config) -> str:
    now = {key: value for key, value in config.flatten().items() if key.startswith("MODEL.") or key == "ENGINE"}
    then = Config.from_dict(before, source="checkpoint").flatten()
    changed = [f"{key} was {then[key]!r}, is {now[key]!r}" for key in now if key in then and then[key] != now[key]]
    return f"Of the configuration, {'; '.join(changed[:MOST_KEYS])}." if changed else ""


def _counts(data: Mapping[str, Mapping[str, int]]) -> str:
    return ", ".join(f"{name} {part['images']} images, {part['instances']} instances" for name, part in data.items())
