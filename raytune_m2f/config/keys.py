"""What keys there are, what each allows, and which one is closest to a misspelt key.

Keys that detectron2 or Mask2Former know and that are not honoured here are refused with what to do instead: an option
that is silently ignored costs days. The keys of networks that an engine brings with it, the engine knows: engines are
above the configuration, so each registers here when it is imported.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, get_args, get_origin

from pydantic.fields import FieldInfo

from raytune_m2f.config.fields.base import Section, is_fixed
from raytune_m2f.errors import closest

FOREIGN_KEYS: dict[str, str] = {
    "OUTPUT_DIR": "give the folder on the command line: --output of train, --study of tune",
    "CUDNN_BENCHMARK": "remove it",
    "FLOAT32_PRECISION": "remove it; SOLVER.AMP chooses mixed precision",
    "VIS_PERIOD": "remove it; `raytune-m2f predict` draws predictions",
    "GLOBAL": "remove it",
    "MODEL.DEVICE": "remove it; a GPU is used if there is one, and CUDA_VISIBLE_DEVICES= hides it",
    "MODEL.LOAD_PROPOSALS": "remove it; proposals are not read from files",
    "MODEL.MASK_ON": "remove it; masks are always predicted",
    "MODEL.KEYPOINT_ON": "remove it; keypoints are not scored",
    "MODEL.RESNETS.NUM_GROUPS": "remove it; choose a ResNet with MODEL.RESNETS.DEPTH",
    "MODEL.RESNETS.WIDTH_PER_GROUP": "remove it; choose a ResNet with MODEL.RESNETS.DEPTH",
    "MODEL.RESNETS.RES4_DILATION": "remove it; no stage is dilated",
    "MODEL.RESNETS.RES5_DILATION": "remove it; no stage is dilated",
    "MODEL.RESNETS.DEFORM_ON_PER_STAGE": "remove it; the backbone has no deformable convolution",
    "MODEL.RESNETS.DEFORM_MODULATED": "remove it; the backbone has no deformable convolution",
    "MODEL.RESNETS.DEFORM_NUM_GROUPS": "remove it; the backbone has no deformable convolution",
    "MODEL.FPN": "remove it; it belongs to another network than Mask2Former",
    "MODEL.PROPOSAL_GENERATOR": "remove it; it belongs to another network than Mask2Former",
    "MODEL.ANCHOR_GENERATOR": "remove it; it belongs to another network than Mask2Former",
    "MODEL.RPN": "remove it; it belongs to another network than Mask2Former",
    "MODEL.ROI_HEADS": "remove it; it belongs to another network than Mask2Former",
    "MODEL.ROI_BOX_HEAD": "remove it; it belongs to another network than Mask2Former",
    "MODEL.ROI_BOX_CASCADE_HEAD": "remove it; it belongs to another network than Mask2Former",
    "MODEL.ROI_MASK_HEAD": "remove it; it belongs to another network than Mask2Former",
    "MODEL.ROI_KEYPOINT_HEAD": "remove it; it belongs to another network than Mask2Former",
    "MODEL.PANOPTIC_FPN": "remove it; it belongs to another network than Mask2Former",
    "MODEL.RETINANET": "remove it; it belongs to another network than Mask2Former",
    "MODEL.SEM_SEG_HEAD.LOSS_TYPE": "remove it; it belongs to DeepLab",
    "MODEL.SEM_SEG_HEAD.PROJECT_FEATURES": "remove it; it belongs to DeepLab",
    "MODEL.SEM_SEG_HEAD.PROJECT_CHANNELS": "remove it; it belongs to DeepLab",
    "MODEL.SEM_SEG_HEAD.ASPP_CHANNELS": "remove it; it belongs to DeepLab",
    "MODEL.SEM_SEG_HEAD.ASPP_DILATIONS": "remove it; it belongs to DeepLab",
    "MODEL.SEM_SEG_HEAD.ASPP_DROPOUT": "remove it; it belongs to DeepLab",
    "MODEL.SEM_SEG_HEAD.USE_DEPTHWISE_SEPARABLE_CONV": "remove it; it belongs to DeepLab",
    "MODEL.MASK_FORMER.TEST.SEM_SEG_POSTPROCESSING_BEFORE_INFERENCE": "remove it; instances need none",
    "SOLVER.MOMENTUM": "remove it; the optimizer is AdamW",
    "SOLVER.NESTEROV": "remove it; the optimizer is AdamW",
    "SOLVER.BASE_LR_END": "remove it; the cosine ends at 0",
    "SOLVER.NUM_DECAYS": "remove it; give the iterations in SOLVER.STEPS",
    "SOLVER.RESCALE_INTERVAL": "remove it; the warm-up lies within the schedule",
    "SOLVER.BIAS_LR_FACTOR": "remove it; biases have the learning rate of their layer",
    "SOLVER.WEIGHT_DECAY_BIAS": "remove it; biases have SOLVER.WEIGHT_DECAY, as in Mask2Former",
    "SOLVER.REFERENCE_WORLD_SIZE": "set SOLVER.LR_SCALING and SOLVER.REFERENCE_BATCH",
    "INPUT.MIN_SIZE_TRAIN": "set INPUT.IMAGE_SIZE, INPUT.MIN_SCALE and INPUT.MAX_SCALE",
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "set INPUT.IMAGE_SIZE, INPUT.MIN_SCALE and INPUT.MAX_SCALE",
    "INPUT.MAX_SIZE_TRAIN": "set INPUT.IMAGE_SIZE, INPUT.MIN_SCALE and INPUT.MAX_SCALE",
    "INPUT.CROP": "remove it; training images are cropped to INPUT.IMAGE_SIZE",
    "INPUT.MASK_FORMAT": "remove it; polygons and run lengths are both read",
    "DATASETS.PROPOSAL_FILES_TRAIN": "remove it; there are no proposals in Mask2Former",
    "DATASETS.PROPOSAL_FILES_TEST": "remove it; there are no proposals in Mask2Former",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TRAIN": "remove it; there are no proposals in Mask2Former",
    "DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST": "remove it; there are no proposals in Mask2Former",
    "DATALOADER.ASPECT_RATIO_GROUPING": "remove it; a batch must depend on its iteration alone",
    "DATALOADER.SAMPLER_TRAIN": "remove it; every image comes once per epoch",
    "DATALOADER.REPEAT_THRESHOLD": "remove it; every image comes once per epoch",
    "DATALOADER.REPEAT_SQRT": "remove it; every image comes once per epoch",
    "TEST.AUG": "remove it; there is no test-time augmentation",
    "TEST.EXPECTED_RESULTS": "remove it; compare metrics.json yourself",
    "TEST.KEYPOINT_OKS_SIGMAS": "remove it; keypoints are not predicted",
    "TEST.PRECISE_BN": "remove it; with small batches take the norm GN or FrozenBN",
}


def foreign_advice(key: str) -> str | None:
    """What to do instead of a key that is detectron2's and not honoured; None if it is not detectron2's."""
    parts = key.split(".")
    above = (".".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((FOREIGN_KEYS[one] for one in above if one in FOREIGN_KEYS), None)


def known_keys(section: type[Section], prefix: str = "") -> dict[str, FieldInfo]:
    """Every dotted key at or below `section` with its field, in the order of definition."""
    known: dict[str, FieldInfo] = {}
    for name, field in section.model_fields.items():
        known[f"{prefix}{name}"] = field
        if is_section(field.annotation):
            known.update(known_keys(field.annotation, f"{prefix}{name}."))
    return known


def allowed(field: FieldInfo) -> str:
    """The type and bounds of a key, in words."""
    return f"only {short_repr(field.default)}" if is_fixed(field) else describe_type(field.annotation, field.metadata)


def describe_type(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """A type and its bounds: `a whole number from 1 to 100`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return describe_type(arguments[0], [m for note in arguments[1:] for m in getattr(note, "metadata", [note])])
    if origin is Literal:
        return " or ".join(short_repr(choice) for choice in arguments)
    if origin is tuple:
        return _describe_sequence(arguments, list(metadata))
    if origin is dict or is_section(annotation):
        names = list(annotation.model_fields) if is_section(annotation) else ["names of your own"]
        return f"a section with {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return words[annotation] + _describe_bounds(metadata)


def short_repr(value: Any) -> str:
    """A value as YAML would have it, short enough for a message."""
    if value is None or isinstance(value, bool):
        return {None: "nothing", True: "true", False: "false"}[value]
    text = repr(list(value) if isinstance(value, tuple) else value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def unknown_key(key: str, known: Iterable[str]) -> str:
    """The message for a key that does not exist."""
    known = list(known)
    if key in known:
        return "write the sections one below the other, with indentation, not as one dotted key"
    if (advice := foreign_advice(key)) is not None:
        return f"detectron2 knows this key, but it is not honoured here: {advice}"
    return f"unknown key{_did_you_mean_key(key, known)}"


def unknown_engine_key(key: str, known: Iterable[str]) -> str:
    """The message for a key that neither detectron2 nor a module of DATASETS.IMPORT has with a value."""
    known = list(known)
    if inside := next((one for one in known if one.startswith(f"{key}.")), None):
        return f"a section; name a key in it, such as {inside}"
    return f"non-existent config key of detectron2{_did_you_mean_key(key, known)}"


def _did_you_mean_key(key: str, known: list[str]) -> str:
    """`; did you mean ...?` with the same name elsewhere, else a similar key or name; empty if none is close."""
    by_spelling = {one.upper(): one for one in known}
    names = {one.rpartition(".")[2]: one for one in reversed(known)}
    wanted, name = key.upper(), key.upper().rpartition(".")[2]
    found = by_spelling.get(wanted) or names.get(name) or by_spelling.get(closest(wanted, by_spelling, 0.8) or "")
    found = found or names.get(closest(name, names, 0.75) or "")
    return f"; did you mean {found}?" if found else ""


def is_section(annotation: Any) -> TypeGuard[type[Section]]:
    """Whether a field of this type holds keys instead of a value."""
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _describe_sequence(arguments: tuple[Any, ...], metadata: list[Any]) -> str:
    most = next((m.max_length for m in metadata if hasattr(m, "max_length")), None)
    length = f" of {len(arguments)} items" if arguments[-1] is not ... else ""
    length = f" of at most {most} item" + "s" * (most > 1) if most is not None else length
    return f"a list in brackets{length}, each {describe_type(arguments[0])}"


def _describe_bounds(metadata: Iterable[Any]) -> str:
    words = {"gt": "above", "ge": "from", "le": "up to", "multiple_of": "in multiples of"}
    bounds = {name: bound for one in metadata for name in words if (bound := getattr(one, name, None)) is not None}
    plain = {name: f"{bound:g}" if isinstance(bound, float) else str(bound) for name, bound in bounds.items()}
    return "".join(f" {word} {plain[name]}" for name, word in words.items() if name in plain)


Completed = tuple[dict[str, Any], list[tuple[str, str]]]
"""Nested values of all keys, and (dotted key, problem) for each that was refused."""
Complete = Callable[[Mapping[str, Any], Iterable[str]], Completed]
"""(nested values, dotted keys that are checked elsewhere) to all keys, the engine's defaults below the values."""

_registered: dict[str, Complete] = {}


def register_keys(engine: str, complete: Complete) -> None:
    """Let the engine of this name complete and check the configurations of its own networks."""
    _registered[engine] = complete


def complete(engine: str, values: Mapping[str, Any], own: Iterable[str]) -> Completed:
    """What `engine` makes of the values.

    Raises:
        MissingDependencyError: the engine needs a library that is not installed.
        ConfigError: a module of DATASETS.IMPORT cannot be imported.
    """
    if engine not in _registered:
        importlib.import_module(f"raytune_m2f.engines.{engine}")
    return _registered[engine](values, own)
