"""A directory that Hugging Face transformers loads: Mask2FormerForUniversalSegmentation and AutoImageProcessor.

config.json, model.safetensors     the network, in the names of the published checkpoints
preprocessor_config.json           how an image becomes its pixels
subcategories.safetensors          the subcategory heads, which transformers does not know: <head>.weight, <head>.bias
categories.json                    names of the main categories and of every subcategory
README.md                          how to use it, heads included, and what differs from raytune-m2f predict
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from raytune_m2f.config import Config
from raytune_m2f.data import Categories
from raytune_m2f.errors import MissingDependencyError, ModelError
from raytune_m2f.export_files import CATEGORIES
from raytune_m2f.learner.transformers_names import to_transformers
from raytune_m2f.model import Choice, Instances, MultiTaskMaskFormer

if TYPE_CHECKING:
    from raytune_m2f.export import ExportedModel

log = logging.getLogger(__name__)

WEIGHTS, HEADS, README = "model.safetensors", "subcategories.safetensors", "README.md"
POINTS = 4
"""Of deformable attention, per level and head: transformers has no key for another number."""
RESNETS = {
    18: ("basic", (2, 2, 2, 2), (64, 128, 256, 512)),
    34: ("basic", (3, 4, 6, 3), (64, 128, 256, 512)),
    50: ("bottleneck", (3, 4, 6, 3), (256, 512, 1024, 2048)),
    101: ("bottleneck", (3, 4, 23, 3), (256, 512, 1024, 2048)),
}
"""Kind of block, their number and width in each stage, by depth."""
STAGES = ["stage1", "stage2", "stage3", "stage4"]

NOT_OURS = (
    *("num_batches_tracked", "relative_position_index", "criterion.empty_weight"),
    *("encoder.swin.layernorm.weight", "encoder.swin.layernorm.bias"),
)
"""Tensors that versions of transformers have besides ours: counters, what follows from the configuration, and the norm
of an output of Swin that a Mask2Former does not read."""

TOLERANCE = 1e-4
"""Of logits, relative and absolute."""
SIDE = 384
"""Pixels of the square image of the check: to this size transformers' post-processing resizes every mask."""
PICTURES = 3
"""One has to be equal. Masked attention compares mask logits with 0: where rounding turns one of them round, an equal
model differs by more than the tolerance. A tensor in a wrong place differs on every picture."""
FEW_PIXELS, SMALL_SHARE = 4, 0.01
"""Where a mask's logit is nearly 0, rounding decides: so many pixels, or this share of a mask, may differ."""


def write(exported: ExportedModel, folder: Path) -> None:
    """Write the directory, load it by transformers, and compare.

    Args:
        folder: an empty one.

    Raises:
        ModelError: transformers cannot express the model, or what it predicts is not the same.
        MissingDependencyError: transformers is not installed.
    """
    network, config = _require_expressible(exported)
    _require_package()
    from safetensors.torch import save_file

    with _quietly():
        _config(config, exported.categories).save_pretrained(folder)
        _processor(config, exported.categories).save_pretrained(folder)
    save_file(_weights(network, config, exported.categories), folder / WEIGHTS, metadata={"format": "pt"})
    if network.heads:
        save_file(_heads(network), folder / HEADS, metadata={"format": "pt"})
    (folder / CATEGORIES).write_text(json.dumps(exported.categories.to_dict(), indent=2), encoding="utf-8")
    (folder / README).write_text(_readme(exported), encoding="utf-8")
    try:
        # on a CPU: a GPU rounds the inputs of its products, as much as a wrong tensor might show
        _check(network.to("cpu"), folder)
    finally:
        network.to(exported.device)


def _require_package() -> None:
    try:
        import transformers  # noqa: F401
    except ImportError:
        raise MissingDependencyError(
            "the format transformers needs the package of that name: pip install 'raytune-m2f[transformers]'"
        ) from None


def _require_expressible(exported: ExportedModel) -> tuple[MultiTaskMaskFormer, Config]:
    if not isinstance(exported.model, MultiTaskMaskFormer) or not isinstance(exported.config, Config):
        raise ModelError(
            "the format transformers is of Mask2Former; this model is another of detectron2's networks. Use it by "
            "detectron2, as docs/detectron2.md says."
        )
    if problems := list(_inexpressible(exported.config)):
        raise ModelError(
            f"transformers' Mask2Former cannot express this model: {'; '.join(problems)}. Export it as it is or with "
            "--format onnx, or train one without these."
        )
    return exported.model, exported.config


def _inexpressible(config: Config) -> Iterator[str]:
    model, former, head = config.MODEL, config.MODEL.MASK_FORMER, config.MODEL.SEM_SEG_HEAD
    backbone = model.BACKBONE.NAME
    if backbone not in ("D2SwinTransformer", "build_resnet_backbone"):
        yield f"MODEL.BACKBONE.NAME is {backbone}, there a Swin or a ResNet"
    if backbone == "build_resnet_backbone" and model.RESNETS.NORM == "GN":
        yield "MODEL.RESNETS.NORM is GN, there batch norm"
    if former.QUERY_SELECTION != "none":
        yield f"MODEL.MASK_FORMER.QUERY_SELECTION is {former.QUERY_SELECTION}, there queries are learnable (none)"
    if former.MASK_PRIOR:
        yield "MODEL.MASK_FORMER.MASK_PRIOR is true, there masks have none"
    if head.NORM != "GN":
        yield f"MODEL.SEM_SEG_HEAD.NORM is {head.NORM!r}, there GN"
    if head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS != POINTS:
        points = head.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS
        yield f"MODEL.SEM_SEG_HEAD.DEFORMABLE_TRANSFORMER_ENCODER_N_POINTS is {points}, there {POINTS}"


def _config(config: Config, categories: Categories) -> Any:
    from transformers import Mask2FormerConfig, ResNetConfig, SwinConfig

    model, former, head = config.MODEL, config.MODEL.MASK_FORMER, config.MODEL.SEM_SEG_HEAD
    backbone: Any
    if model.BACKBONE.NAME == "D2SwinTransformer":
        backbone = SwinConfig(
            image_size=model.SWIN.PRETRAIN_IMG_SIZE,
            embed_dim=model.SWIN.EMBED_DIM,
            depths=list(model.SWIN.DEPTHS),
            num_heads=list(model.SWIN.NUM_HEADS),
            window_size=model.SWIN.WINDOW_SIZE,
            drop_path_rate=model.SWIN.DROP_PATH_RATE,
            out_features=STAGES,
        )
    else:
        kind, depths, widths = RESNETS[model.RESNETS.DEPTH]
        backbone = ResNetConfig(
            layer_type=kind, depths=list(depths), hidden_sizes=list(widths), embedding_size=64, out_features=STAGES
        )
    return Mask2FormerConfig(
        architectures=["Mask2FormerForUniversalSegmentation"],
        backbone_config=backbone,
        feature_size=head.CONVS_DIM,
        mask_feature_size=head.MASK_DIM,
        hidden_dim=former.HIDDEN_DIM,
        encoder_feedforward_dim=head.TRANSFORMER_ENC_DIM_FEEDFORWARD,
        encoder_layers=head.TRANSFORMER_ENC_LAYERS,
        decoder_layers=former.DEC_LAYERS,
        num_attention_heads=former.NHEADS,
        dim_feedforward=former.DIM_FEEDFORWARD,
        enforce_input_projection=former.ENFORCE_INPUT_PROJ,
        num_queries=former.NUM_OBJECT_QUERIES,
        no_object_weight=former.NO_OBJECT_WEIGHT,
        class_weight=former.CLASS_WEIGHT,
        mask_weight=former.MASK_WEIGHT,
        dice_weight=former.DICE_WEIGHT,
        train_num_points=former.TRAIN_NUM_POINTS,
        oversample_ratio=former.OVERSAMPLE_RATIO,
        importance_sample_ratio=former.IMPORTANCE_SAMPLE_RATIO,
        use_auxiliary_loss=former.DEEP_SUPERVISION,
        id2label=dict(enumerate(categories.names)),
        label2id={name: label for label, name in enumerate(categories.names)},
    )


def _processor(config: Config, categories: Categories) -> Any:
    from transformers import Mask2FormerImageProcessor

    test = config.INPUT
    return Mask2FormerImageProcessor(
        do_resize=test.MIN_SIZE_TEST > 0,
        size={"shortest_edge": test.MIN_SIZE_TEST or test.MAX_SIZE_TEST, "longest_edge": test.MAX_SIZE_TEST},
        size_divisor=config.MODEL.MASK_FORMER.SIZE_DIVISIBILITY,
        image_mean=[level / 255 for level in config.MODEL.PIXEL_MEAN],
        image_std=[level / 255 for level in config.MODEL.PIXEL_STD],
        do_convert_rgb=True,
        ignore_index=255,
        num_labels=len(categories.names),
    )


def _weights(network: MultiTaskMaskFormer, config: Config, categories: Categories) -> dict[str, Tensor]:
    from transformers import Mask2FormerForUniversalSegmentation

    heads = tuple(f"sem_seg_head.predictor.{name}_embed." for name in network.heads)
    own = {
        name: value
        for name, value in network.state_dict().items()
        if not name.startswith(heads) and not name.endswith("relative_position_index")
    }
    state = to_transformers(own)
    with _quietly():
        theirs = Mask2FormerForUniversalSegmentation(_config(config, categories)).state_dict()
    # transformers complains of what is missing, even of what no prediction depends on
    for name in [name for name in theirs if name.endswith(NOT_OURS)]:
        state.setdefault(name, theirs[name])
    return {name: value.detach().cpu().clone().contiguous() for name, value in state.items()}


def _heads(network: MultiTaskMaskFormer) -> dict[str, Tensor]:
    classifiers = network.sem_seg_head.predictor.classifiers
    return {
        f"{name}.{part}": getattr(classifiers[name], part).detach().cpu().clone()
        for name in network.heads
        for part in ("weight", "bias")
    }


class _Logits(NamedTuple):
    """What post-processing reads: (B, Q, K + 1) and (B, Q, H, W)."""

    class_queries_logits: Tensor
    masks_queries_logits: Tensor


@torch.no_grad()
def _check(network: MultiTaskMaskFormer, folder: Path) -> None:
    """Raise ModelError unless transformers loads the directory and predicts the same."""
    from safetensors.torch import load_file
    from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

    with _quietly():
        model, loading = Mask2FormerForUniversalSegmentation.from_pretrained(folder, output_loading_info=True)
        processor = AutoImageProcessor.from_pretrained(folder)
        model.eval()
        if wrong := {name: sorted(found) for name, found in loading.items() if found}:
            raise ModelError(f"transformers does not load what was written: {wrong}")
        heads = load_file(folder / HEADS) if network.heads else {}
        for number in range(PICTURES):
            try:
                _compare(network, model, processor, heads, number)
                return
            except ModelError:
                if number == PICTURES - 1:
                    raise


def _compare(network: MultiTaskMaskFormer, model: Any, processor: Any, heads: dict[str, Tensor], number: int) -> None:
    """Raise ModelError unless both predict the same of a picture."""
    # of a size that is neither resized nor padded
    image = _picture(-(-SIDE // network.size_divisibility) * network.size_divisibility, number)
    pixels = processor(image, do_resize=False, return_tensors="pt")["pixel_values"]
    _require_equal("pixel_values", pixels, network.preprocess([image]))
    theirs, ours = model(pixels), network([image])
    _require_equal("class_queries_logits", theirs.class_queries_logits, ours.pred_logits[-1])
    _require_equal("masks_queries_logits", theirs.masks_queries_logits, ours.pred_masks)
    if heads:
        decoded = model.model.transformer_module.decoder.layernorm(theirs.transformer_decoder_last_hidden_state)
        for name in network.heads:
            logits = F.linear(decoded, heads[f"{name}.weight"], heads[f"{name}.bias"])
            _require_equal(f"logits of {name}", logits, ours.pred_sublogits[name][-1])
    if image.shape[1] != SIDE:  # of an odd SIZE_DIVISIBILITY: their masks are resized twice
        return
    predicted = _Logits(theirs.class_queries_logits, theirs.masks_queries_logits)
    (found,) = processor.post_process_instance_segmentation(
        predicted, threshold=0.0, target_sizes=[(SIDE, SIDE)], return_binary_maps=True
    )
    (instances,) = network.predict([image], [(SIDE, SIDE)], Choice(), max_instances=network.num_queries)
    _require_same_instances(found, instances)


def _picture(side: int, number: int = 0) -> Tensor:
    """(3, side, side) uint8: coloured blobs, always the same for a number."""
    noise = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(number))
    return (F.interpolate(noise, (side, side), mode="bicubic").clamp(0, 1)[0] * 255).to(torch.uint8)


def _require_equal(name: str, theirs: Tensor, ours: Tensor) -> None:
    if theirs.shape == ours.shape and torch.allclose(theirs, ours, rtol=TOLERANCE, atol=TOLERANCE):
        return
    how = (
        f"they differ by {float((theirs - ours).abs().max()):.3g}"
        if theirs.shape == ours.shape
        else f"their shapes are {list(theirs.shape)} and {list(ours.shape)}"
    )
    raise ModelError(f"transformers' {name} are not the model's: {how}. Nothing was exported; please report this.")


def _require_same_instances(theirs: dict[str, Any], ours: Instances) -> None:
    """Each instance of ours, but those that rounding may exchange for others, has its like among theirs."""
    segments, masks = theirs["segments_info"], theirs["segmentation"]
    last = float(ours.scores.min()) + TOLERANCE  # at the end of the ranking
    whole = [i for i in range(len(ours.scores)) if float(ours.scores[i]) > last and bool(ours.masks[i].any())]
    for i in whole:
        mask, label, score = ours.masks[i], int(ours.labels[i]), float(ours.scores[i])
        allowed = FEW_PIXELS + SMALL_SHARE * int(mask.sum())
        if not any(
            segment["label_id"] == label
            and abs(segment["score"] - score) < 10 * TOLERANCE
            and int((other.bool() != mask).sum()) <= allowed
            for segment, other in zip(segments, masks, strict=True)
        ):
            raise ModelError(
                f"transformers' post-processing does not find the model's instance of category {label} with score "
                f"{score:.3f}. Nothing was exported; please report this."
            )


@contextmanager
def _quietly() -> Iterator[None]:
    """Without transformers' bars and warnings: it says of each ResNet that it may not work, and here that is tested."""
    from transformers.utils import logging as theirs

    level, bars = theirs.get_verbosity(), theirs.is_progress_bar_enabled()
    theirs.set_verbosity_error()
    theirs.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        theirs.set_verbosity(level)
        if bars:
            theirs.enable_progress_bar()


USE = """\
```python
import torch
from PIL import Image
from transformers import AutoImageProcessor, Mask2FormerForUniversalSegmentation

folder, image = ".", Image.open("image.png")
processor = AutoImageProcessor.from_pretrained(folder)
model = Mask2FormerForUniversalSegmentation.from_pretrained(folder).eval()
with torch.no_grad():
    outputs = model(**processor(image, return_tensors="pt"))
(found,) = processor.post_process_instance_segmentation(
    outputs, target_sizes=[image.size[::-1]], return_binary_maps=True
)
for instance in found["segments_info"]:  # found["segmentation"] has their masks
    print(model.config.id2label[instance["label_id"]], instance["score"])
```
"""

USE_HEADS = """\
```python
import json
from pathlib import Path
from types import SimpleNamespace

from safetensors.torch import load_file

heads = load_file(f"{folder}/subcategories.safetensors")
names = json.loads(Path(folder, "categories.json").read_text())["subcategories"]
kept = (outputs.class_queries_logits[0].softmax(-1)[:, :-1].amax(-1) >= 0.5).nonzero()[:, 0]
decoded = model.model.transformer_module.decoder.layernorm(outputs.transformer_decoder_last_hidden_state)[0, kept]
# each query as an image of its own, so that one sees which instance is whose
logits = {name: getattr(outputs, name)[0, kept, None] for name in ("class_queries_logits", "masks_queries_logits")}
sizes = [image.size[::-1]] * len(kept)
results = processor.post_process_instance_segmentation(SimpleNamespace(**logits), target_sizes=sizes)
for query, result in zip(decoded, results):
    for instance in result["segments_info"]:  # one, or none; its mask is result["segmentation"] == 0
        for head, classes in names.items():
            probabilities = (heads[f"{head}.weight"] @ query + heads[f"{head}.bias"]).softmax(-1)[:-1]
            print(model.config.id2label[instance["label_id"]], head, classes[probabilities.argmax()])
```
"""


def _readme(exported: ExportedModel) -> str:
    from transformers import __version__ as version

    lines = [
        f"A Mask2Former that Hugging Face transformers loads; it predicts {', '.join(exported.categories.names)}. "
        f"Checked with transformers {version}.",
        "",
        USE,
    ]
    if exported.categories.subcategories:
        heads = (f"{name} ({', '.join(classes)})" for name, classes in exported.categories.subcategories.items())
        lines += [
            "### Subcategories",
            "",
            f"{'; '.join(heads)}. transformers has no place for these heads: they are linear layers on the queries of "
            f"the last decoder layer, in {HEADS}.",
            "",
            USE_HEADS,
        ]
    lines += ["### What differs from raytune-m2f predict", "", *(f"- {line}" for line in _differences(exported)), ""]
    return "\n".join(lines)


def _differences(exported: ExportedModel) -> Iterator[str]:
    test, tiles = exported.config.MODEL.MASK_FORMER.TEST, exported.config.TEST.TILES
    yield (
        f"An image is resized to a multiple of {exported.config.MODEL.MASK_FORMER.SIZE_DIVISIBILITY} pixels, where "
        "raytune_m2f pads it with zeros: the pixels, and so the scores, are equal where the resized image is one."
    )
    head, former = exported.config.MODEL.SEM_SEG_HEAD, exported.config.MODEL.MASK_FORMER
    if former.ENFORCE_INPUT_PROJ or head.CONVS_DIM != former.HIDDEN_DIM:
        yield "transformers 5.0 and older forget this model's input projections, and say so when they load it."
    yield "Masks are made at 384 x 384 pixels and resized from there."
    if tiles.ENABLED:
        yield f"The image is not cut into windows (TEST.TILES.SIZE {tiles.SIZE}): give it windows yourself."
    for key in type(test).model_fields:
        field, value = type(test).model_fields[key], getattr(test, key)
        if value != field.default:
            yield f"MODEL.MASK_FORMER.TEST.{key} ({value}) is not applied."
