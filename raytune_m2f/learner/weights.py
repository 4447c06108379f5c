"""Initial weights (`MODEL.WEIGHTS`): a Mask2Former (ours, its own code's, transformers'), or an ImageNet backbone.

Whatever does not fit is counted and logged by name (the first few).
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from raytune_m2f.errors import ModelError, first_of
from raytune_m2f.learner.transformers_names import THEIRS, from_transformers
from raytune_m2f.learner.weight_files import read_state_dict
from raytune_m2f.learner.weight_folders import pixels_of
from raytune_m2f.model import Backbone, MultiTaskMaskFormer

log = logging.getLogger(__name__)

State = Mapping[str, Tensor]

PREDICTOR = "sem_seg_head.predictor."
QUERIES = ("query_feat.weight", "query_embed.weight")
NOT_HEADS = ("query", "level", "mask")
"""`<name>_embed` of the predictor that classify nothing."""
NOT_LEARNED = ("num_batches_tracked", "relative_position_index", "criterion.empty_weight")
"""Counters, indices that follow from the window, and the reference's class weights (ours are in the configuration)."""

LEAST_FITTING = 0.95
"""Share of the backbone's tensors that a file must fit; those that are missing are logged."""

PIXELS = ("PIXEL_MEAN", "PIXEL_STD")
LEVELS_APART = 1.0
"""Of 255: what is said of pixels that differ by more."""

_OLD_PIXEL_DECODER = re.compile(r"^sem_seg_head\.(?!predictor\.|pixel_decoder\.)")
OUTPUT_NORM = re.compile(r"^backbone\.norm\d\.")  # of Swin: no ImageNet file has them
_CLASSIFIER = re.compile(r"^backbone\.(?:stem\.fc|fc|head|classifier|norm|_conv_head|_bn1|_fc)\.|\.attn_mask$")


@dataclass(frozen=True)
class Loaded:
    """What loading did: names of the network that kept their fresh values, and of the file that had no use."""

    fresh: tuple[str, ...]
    unused: tuple[str, ...]


def load_weights(model: MultiTaskMaskFormer, source: str) -> Loaded:
    """Load what fits from `MODEL.WEIGHTS` into the network.

    Raises:
        ModelError: as `read_state_dict`, or it is not for this backbone.
    """
    state = _learned(network_names(read_state_dict(source), model.backbone))
    own = _learned(model.state_dict())
    fitted = {name: _fit(name, state[name], own[name]) for name in own if name in state}
    usable = {name: value for name, value in fitted.items() if value is not None}
    _require_backbone(source, own, state, usable)
    model.load_state_dict(usable, strict=False)
    loaded = Loaded(*(tuple(name for name in names if name not in usable) for names in (own, state)))
    if any(name.startswith("sem_seg_head.") for name in state):
        told = tuple(_log_heads(source, model.heads, own, state))
    else:
        log.info("%s holds a backbone: pixel decoder and transformer decoder start fresh", source)
        told = tuple(name for name in loaded.fresh if not name.startswith("backbone."))
    unused = [name for name in loaded.unused if name not in own and name not in told]
    _log_others(source, own, state, [name for name in loaded.fresh if name not in told], unused)
    _log_pixels(source, model)
    return loaded


def network_names(state: State, backbone: Backbone) -> dict[str, Tensor]:
    """A file's tensors under the network's names.

    A bare backbone has torchvision's names or the published ones. Older checkpoints of Mask2Former call two things
    otherwise (the reference's `_load_from_state_dict` renames them too); transformers calls everything otherwise.
    """
    if any(THEIRS.match(name) for name in state):
        return from_transformers(state)
    if not any(name.startswith(("backbone.", "sem_seg_head.")) for name in state):
        return {f"backbone.{backbone.stored_name(name)}": value for name, value in state.items()}
    return {
        _OLD_PIXEL_DECODER.sub("sem_seg_head.pixel_decoder.", name).replace(".static_query.", ".query_feat."): value
        for name, value in state.items()
    }


def _learned(state: State) -> dict[str, Tensor]:
    return {name: value for name, value in state.items() if not name.endswith(NOT_LEARNED)}


def _fit(name: str, value: Tensor, own: Tensor) -> Tensor | None:
    """The value in the network's shape: queries are cut or grown, anything else of another shape is left out."""
    if value.shape == own.shape:
        return value
    if name.endswith(QUERIES) and value.shape[1:] == own.shape[1:]:
        log.info("%s: %d queries in the file, %d in the network", name, len(value), len(own))
        return torch.cat((value[: len(own)], own[len(value) :].to(value)))
    return None


def _require_backbone(source: str, own: State, state: State, usable: State) -> None:
    """Refuse a file that belongs to another backbone, perhaps only to a deeper or a shallower one."""
    backbone = [name for name in own if name.startswith("backbone.") and not OUTPUT_NORM.match(name)]
    fitting = [name for name in backbone if name in usable]
    layers = {name.rpartition(".")[0] for name in own}
    other = [name for name in state if name.startswith("backbone.") and not _CLASSIFIER.search(name)]
    other = [name for name in other if name.rpartition(".")[0] not in layers]
    if len(fitting) >= LEAST_FITTING * len(backbone) and not other:
        return
    raise ModelError(
        f"MODEL.WEIGHTS = {source!r} is not for this backbone: {len(fitting)} of its {len(backbone)} tensors fit, and "
        f"{len(other)} of the file belong to layers that it does not have. "
        f"The file holds e.g. {_first_of(_with_shape(state), 3)}; the network "
        f"{_first_of(_with_shape(own), 3)}. Give weights of the backbone that the configuration chooses."
    )


def _log_heads(source: str, heads: Iterable[str], own: State, state: State) -> Iterator[str]:
    """Log each classifier whose classes differ from the file's, or that is in one of both only, and yield its names."""
    found = [re.fullmatch(re.escape(PREDICTOR) + r"(\w+)_embed\.weight", name) for name in state]
    theirs = [match[1] for match in found if match and match[1] not in NOT_HEADS]
    for head in dict.fromkeys(("class", *heads, *theirs)):
        name = f"{PREDICTOR}{head}_embed"
        there, here = (values.get(f"{name}.weight") for values in (state, own))
        if there is not None and here is not None and len(there) == len(here):
            continue  # if it is of another width, it is named with all other tensors of another shape
        log.warning("%s: %s: %s in the file, %s here%s", source, name, _classes(there), _classes(here),
                    "" if here is None else ": it starts fresh")  # fmt: skip
        yield from (f"{name}.weight", f"{name}.bias")


def _classes(weight: Tensor | None) -> str:
    if weight is None:
        return "no such head"
    count = len(weight) - 1  # "no object" is one more
    return f"{count} class{'es' * (count != 1)}"


def _log_others(source: str, own: State, state: State, fresh: list[str], unused: list[str]) -> None:
    shapes = [f"{n} {list(state[n].shape)}, here {list(own[n].shape)}" for n in fresh if n in state]
    classifier = [name for name in unused if _CLASSIFIER.search(name)]
    for level, what, names in (
        (logging.WARNING, "has no values for %d tensors, they start fresh", [n for n in fresh if n not in state]),
        (logging.WARNING, "has %d tensors of another shape, they start fresh", shapes),
        (logging.INFO, "holds %d tensors of its training only, not needed here", classifier),
        (logging.WARNING, "holds %d tensors that have no use here", [n for n in unused if n not in classifier]),
    ):
        if names:
            log.log(level, f"%s {what}: %s", source, len(names), _first_of(names))


def _log_pixels(source: str, model: MultiTaskMaskFormer) -> None:
    """Log it if the weights were trained on pixels of another mean or spread, as a directory of transformers' says."""
    for key, theirs, ours in zip(PIXELS, pixels_of(source) or (), (model.pixel_mean, model.pixel_std), strict=False):
        here = [round(value, 3) for value in ours.flatten().tolist()]
        if max(abs(there - value) for there, value in zip(theirs, here, strict=True)) > LEVELS_APART:
            log.warning("%s was trained with MODEL.%s %s; here it is %s", source, key, theirs, here)


def _with_shape(state: State) -> list[str]:
    """Name and shape of the backbone's tensors, or of all if there are none of it."""
    names = [name for name in sorted(state) if name.startswith("backbone.")] or sorted(state)
    return [f"{name} {list(state[name].shape)}" for name in names]


def _first_of(names: list[str], most: int = 8) -> str:
    return ", ".join(first_of(names, most))
