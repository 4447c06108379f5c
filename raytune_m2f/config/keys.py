"""Keys that detectron2 or Mask2Former know and that are not honoured here, with what to do instead.

A key stands for everything below it. They are refused, for an option that is silently ignored costs days.

What keys there are, what each allows, and which one a misspelt key may have meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeGuard, get_args, get_origin

from pydantic.fields import FieldInfo

from raytune_m2f.config.fields.base import Section, is_fixed

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
    while key:
        if key in FOREIGN_KEYS:
            return FOREIGN_KEYS[key]
        key = key.rpartition(".")[0]
    return None


@dataclass(frozen=True)
class KeyInfo:
    """One key of the configuration, for error messages and for the reference.

    Attributes:
        key: dotted.
        default: its default; None where there is none.
        allowed: its type and bounds, in words.
        description: what it does, with its unit in brackets at the end.
        is_section: whether it holds keys instead of a value.
    """

    key: str
    default: Any
    allowed: str
    description: str
    is_section: bool


def known_keys(section: type[Section], prefix: str = "") -> dict[str, KeyInfo]:
    """Every dotted key at or below `section`, in the order of definition."""
    known: dict[str, KeyInfo] = {}
    for name, field in section.model_fields.items():
        key = f"{prefix}{name}"
        known[key] = key_info(key, field)
        if is_section(field.annotation):
            known.update(known_keys(field.annotation, f"{key}."))
    return known


def key_info(key: str, field: FieldInfo) -> KeyInfo:
    default = None if field.is_required() else field.default
    allowed = f"only {shown(default)}" if is_fixed(field) else in_words(field.annotation, field.metadata)
    return KeyInfo(key, default, allowed, field.description or "", is_section(field.annotation))


def in_words(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """A type and its bounds: `a whole number from 1 to 100`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return in_words(arguments[0], [m for note in arguments[1:] for m in getattr(note, "metadata", [note])])
    if origin is Literal:
        return " or ".join(shown(choice) for choice in arguments)
    if origin is tuple:
        return _sequence_in_words(arguments, list(metadata))
    if origin is dict or is_section(annotation):
        names = list(annotation.model_fields) if is_section(annotation) else ["names of your own"]
        return f"a section with {', '.join(names[:5])}{', ...' if len(names) > 5 else ''}"
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return words[annotation] + _bounds_in_words(metadata)


def shown(value: Any) -> str:
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
    close = closest_key(key, known)
    return f"unknown key; did you mean {close}?" if close else "unknown key"


def closest_key(key: str, known: Iterable[str]) -> str | None:
    """The key that a misspelt one may have meant: the same name elsewhere, then a similar one."""
    known, wanted = list(known), key.upper()
    names = {k.rpartition(".")[2]: k for k in reversed(known)}
    name = wanted.rpartition(".")[2]
    by_spelling = {k.upper(): k for k in known}
    if wanted in by_spelling:
        return by_spelling[wanted]
    if name in names:
        return names[name]
    if close := difflib.get_close_matches(wanted, by_spelling, n=1, cutoff=0.8):
        return by_spelling[close[0]]
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.75)
    return names[close[0]] if close else None


def is_section(annotation: Any) -> TypeGuard[type[Section]]:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _sequence_in_words(arguments: tuple[Any, ...], metadata: list[Any]) -> str:
    most = next((m.max_length for m in metadata if hasattr(m, "max_length")), None)
    length = f" of {len(arguments)} items" if arguments[-1] is not ... else ""
    length = f" of at most {most} item" + "s" * (most > 1) if most is not None else length
    return f"a list in brackets{length}, each {in_words(arguments[0])}"


def _bounds_in_words(metadata: Iterable[Any]) -> str:
    bounds = {
        name: getattr(m, name)
        for m in metadata
        for name in ("ge", "gt", "le", "lt", "multiple_of")
        if getattr(m, name, None) is not None
    }
    words = {"gt": "above", "ge": "from", "le": "up to", "multiple_of": "in multiples of"}
    return "".join(f" {word} {_plain(bounds[name])}" for name, word in words.items() if name in bounds)


def _plain(bound: float) -> str:
    return f"{bound:g}" if isinstance(bound, float) else str(bound)
