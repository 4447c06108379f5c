"""The configuration: keys that nothing reads, and the search space."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from raytune_m2f.config import Config, known_keys
from raytune_m2f.config.fields.base import is_fixed
from raytune_m2f.config.schema import AnyModelConfig
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.doctor.settings import FORMER, LR, SCALING, TOO_HIGH, published_for
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.learner.optimizer import effective_lr
from raytune_m2f.notes import Note
from raytune_m2f.study.space import SearchSpace
from raytune_m2f.training.check import BATCH

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


UNUSED = Check("configuration/unused", "has every key that was set an effect?", _unused, "config", True)
SPACE = Check("configuration/space", "does the search space hold what is known to work?", _space, quick=True)

CHECKS: tuple[Check, ...] = (UNUSED, SPACE)
