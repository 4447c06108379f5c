"""The network as one graph of tensors, what onnx.py and torch_export.py write, and the files that go with it.

Shapes: B images, H x W pixels, Q queries, C categories, C_k classes of subcategory head k.
"""

from __future__ import annotations

import copy
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from raytune_m2f.config import Config
from raytune_m2f.data.transforms import shortest_edge_size
from raytune_m2f.engines.datasets import load_registered
from raytune_m2f.errors import ModelError, RaytuneM2FError
from raytune_m2f.learner.sieves import choice_of
from raytune_m2f.model import Choice, MultiTaskMaskFormer
from raytune_m2f.model.inference import ranking_scores

if TYPE_CHECKING:
    from raytune_m2f.export import ExportedModel

log = logging.getLogger(__name__)

IMAGES = "images"
DESCRIPTION, EXAMPLE, README = "model.json", "example.py", "README.md"
TOLERANCE = 1e-3
"""Of outputs, relative where they are larger than 1."""
LARGEST_SIDE = 4096
CHECKED = 3
"""Images that both are compared on."""
DROPPED = -1.0
Outputs = dict[str, Tensor]
Run = Callable[[Tensor], Sequence[Tensor]]
"""Gives the outputs for a batch of images, in the order of the graph's."""

_TEXT = """# {title}

`{file}` is the network of an export of raytune_m2f as one graph, for {runtime}. `{description}` says the same as
this page for programs; `{example}` goes from an image to instances with {needs}:

    python {example} image.jpg

| | |
|---|---|
{rows}

**In.** An image is resized, its sides in proportion, so that the shorter one has {min_size} pixels and the longer one
at most {max_size} (bilinear with antialiasing); is it then higher than {height} or wider than {width}, smaller, so
that it fits. It is laid into the upper left corner of {height} x {width} pixels (height, width), which are {pad} (red,
green, blue) elsewhere: what the network sees as nothing.

**Out.** `scores` holds what pairs of query and category compete by; {dropped:g} marks pairs that are dropped, by a
sieve of the configuration or because the query repeats another. The best {most} of the others are an image's instances.
A mask is that of the pair's query, enlarged to {height} x {width}, cut to the resized image, brought to the image's own
size, and positive inside. An instance's score is that of its pair times the mean of sigmoid(mask) inside. The
softmax of a head's logits are the probabilities of its classes, the last one being "no object".{nms}

{fits}{tiles}
"""


_FITS = {
    True: "It is the size that `raytune-m2f predict` gives the test images, the largest ones: those that come to this "
    "size have the same instances here. An image of another shape has more around it than it has there, which moves "
    "where the network takes its places to be: scores and masks differ.",
    False: "The test images were not at hand when this was written, or are seen in windows, so it is a square. "
    "`raytune-m2f predict` pads an image to its own shape: where that is no square, scores and masks differ.",
}
Size = tuple[int, int]
"""Height and width."""


class Graph(nn.Module):
    """A network with fixed size: (B, 3, H, W) RGB, 0 to 255, to a dictionary of tensors.

    Outputs: `scores` (B, Q, C), what pairs compete by, `DROPPED` where `choice` drops them; `masks` (B, Q, H/4, W/4),
    logits; `class_logits` (B, Q, C + 1) and for each head `<head>_logits` (B, Q, C_k + 1), the last class being
    "no object".
    """

    def __init__(self, network: MultiTaskMaskFormer, choice: Choice):
        super().__init__()
        self.network, self.choice = network, choice

    def forward(self, images: Tensor) -> Outputs:
        network = self.network
        features = network.backbone((images - network.pixel_mean) / network.pixel_std)
        outputs = network.sem_seg_head(features)
        logits = outputs.pred_logits[-1]
        heads = {name: each[-1] for name, each in outputs.pred_sublogits.items()}
        probs, *subprobs = (each.flatten(0, 1).softmax(-1) for each in (logits, *heads.values()))
        scores = ranking_scores(probs, subprobs, self.choice.ranking)
        passed = self.choice.passed(probs, subprobs)
        if passed is not None:
            scores = torch.where(passed, scores, DROPPED)
        scores = scores.view(-1, *logits.shape[1:2], scores.shape[-1])
        if outputs.distinct is not None:
            scores = torch.where(outputs.distinct[..., None], scores, DROPPED)
        named = {f"{name}_logits": each for name, each in heads.items()}
        return {"scores": scores, "masks": outputs.pred_masks, "class_logits": logits, **named}


def graph_of(exported: ExportedModel) -> Graph:
    """The graph of an export, on the CPU. Raises ModelError: it is a network of detectron2's."""
    if not isinstance(exported.model, MultiTaskMaskFormer):
        raise ModelError(
            "only our own network becomes one graph; this model is detectron2's, which has its own export."
        )
    network = copy.deepcopy(exported.model).cpu().eval()
    network.requires_grad_(False)
    return Graph(network, choice_of(exported.config.MODEL.MASK_FORMER.TEST))


def size_of(config: Config, divisibility: int) -> tuple[Size, bool]:
    """H and W of the smallest input that holds every test image as `predict` resizes and pads it, and True.

    Where there are no test images at hand, or they are seen in windows (TEST.TILES): a square as large as the longest
    side of a resized image, or of a training image where images keep their size, and False.

    Raises:
        ModelError: it is larger than `LARGEST_SIDE`.
    """
    key = "INPUT.MAX_SIZE_TEST" if config.INPUT.MIN_SIZE_TEST else "INPUT.IMAGE_SIZE"
    resized = _test_sizes(config)
    largest = tuple(map(max, *resized, (0, 0))) if resized else (int(config.value(key)),) * 2
    if max(largest) > LARGEST_SIDE:
        kept = resized and not config.INPUT.MIN_SIZE_TEST
        what = (
            "set INPUT.MIN_SIZE_TEST (0 keeps the size of the test images) and MAX_SIZE_TEST"
            if kept
            else f"lower {key}"
        )
        raise ModelError(
            f"images of {max(largest)} pixels a side, but an input of fixed size has at most {LARGEST_SIDE}: {what} "
            "in the export's config.yaml."
        )
    height, width = (-(-length // divisibility) * divisibility for length in largest)
    return (height, width), bool(resized)


def _test_sizes(config: Config) -> list[Size]:
    """Of the test images as they are resized; none where the test set is not here, or is seen in windows."""
    if config.TEST.TILES.ENABLED:
        return []
    try:
        records = [record for name in config.DATASETS.TEST[:1] for record in load_registered(config, name).records]
    except (RaytuneM2FError, OSError) as error:
        log.info("the test images are not here, so the input is a square: %s", str(error).partition("\n")[0])
        return []
    smallest, longest = config.INPUT.MIN_SIZE_TEST, config.INPUT.MAX_SIZE_TEST
    return [shortest_edge_size(record.height, record.width, smallest, longest) for record in records]


def samples(size: Size) -> Tensor:
    """(3, 3, H, W): smooth random images, the same at every call, in which no two places look alike."""
    generator = torch.Generator().manual_seed(0)
    total = torch.zeros(CHECKED, 3, *size)
    for cells in (4, 16, 64):
        noise = torch.rand(CHECKED, 3, cells, cells, generator=generator)
        total += F.interpolate(noise, size=size, mode="bilinear", align_corners=False)
    return total * (255 / 3)


def require_same(graph: Graph, size: Size, run: Run, what: str) -> None:
    """Compare on three images, one alone and two together.

    Queries of a heat map may come in another order, where two peaks are equally high but for rounding.

    Args:
        what: was written.

    Raises:
        ModelError: outputs differ by more than `TOLERANCE`.
    """
    images = samples(size)
    for batch in (images[:1], images[1:]):
        with torch.no_grad():
            expected = graph(batch)
        found = dict(zip(expected, run(batch), strict=True))
        worst = max(
            _difference({name: value[i] for name, value in found.items()}, {n: v[i] for n, v in expected.items()})
            for i in range(len(batch))
        )
        if not worst <= TOLERANCE:
            raise ModelError(
                f"{what} differs from the model by {worst:.1e}, more than {TOLERANCE:g}: nothing is written."
            )


def _difference(found: Outputs, expected: Outputs) -> float:
    """The largest difference of an image's outputs, its queries matched."""
    ours, theirs = (torch.cat([_scaled(v).flatten(1) for v in each.values()], 1) for each in (found, expected))
    order = torch.arange(len(ours))
    if not _largest(ours, theirs) <= TOLERANCE:
        costs = torch.cdist(theirs, ours).nan_to_num(torch.finfo().max)
        order = torch.from_numpy(linear_sum_assignment(costs.numpy())[1])
    return _largest(ours[order], theirs)


def _scaled(values: Tensor) -> Tensor:
    """Differences of these are absolute near 0 and relative far from it."""
    return values.sign() * values.abs().log1p()


def _largest(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).abs().max())


def describe(exported: ExportedModel, size: Size, graph: Graph, *, file: str) -> dict[str, Any]:
    """What a program needs to know to use the graph."""
    config, names = exported.config, exported.categories
    test = config.MODEL.MASK_FORMER.TEST
    queries, cells = graph.network.num_queries, [length // 4 for length in size]
    heads = {head: len(classes) for head, classes in names.subcategories.items()}
    return {
        "file": file,
        "input": {"name": IMAGES, "type": "float32", "shape": ["batch", 3, *size], "content": "RGB, 0 to 255"},
        "outputs": {
            "scores": ["batch", queries, len(names)],
            "masks": ["batch", queries, *cells],
            "class_logits": ["batch", queries, len(names) + 1],
            **{f"{head}_logits": ["batch", queries, classes + 1] for head, classes in heads.items()},
        },
        "preprocessing": {
            "min_size": config.INPUT.MIN_SIZE_TEST,
            "max_size": config.INPUT.MAX_SIZE_TEST if config.INPUT.MIN_SIZE_TEST else max(size),
            "height": size[0],
            "width": size[1],
            "pad_value": graph.network.pixel_mean.flatten().tolist(),
        },
        "postprocessing": {
            "max_instances": config.TEST.DETECTIONS_PER_IMAGE,
            "nms_threshold": test.NMS_THRESHOLD,
            "nms_class_agnostic": test.NMS_CLASS_AGNOSTIC,
        },
        **names.to_dict(),
    }


def write_beside(
    folder: Path, description: dict[str, Any], exported: ExportedModel, *, fits: bool, runtime: str, needs: str
) -> None:
    """Write model.json, example.py and README.md, last.

    Args:
        fits: the size is that of the test images.
    """
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    example = Path(__file__).with_name(EXAMPLE).read_text(encoding="utf-8")
    (folder / EXAMPLE).write_text(example, encoding="utf-8")
    sizes, post = description["preprocessing"], description["postprocessing"]
    rows = {f"in `{description['input']['name']}`": f"float32, {_shape(description['input']['shape'])}, RGB, 0 to 255"}
    rows |= {f"out `{name}`": f"float32, {_shape(shape)}" for name, shape in description["outputs"].items()}
    rows["categories"] = ", ".join(exported.categories.names)
    rows |= {head: ", ".join(classes) for head, classes in exported.categories.subcategories.items()}
    agnostic = "whatever their categories" if post["nms_class_agnostic"] else "of one category"
    most = f"{post['nms_threshold']:g} (intersection over union)"
    nms = f" Of masks {agnostic} that overlap by more than {most} the best stays."
    tiles = " Nor does this graph know of windows (TEST.TILES): it sees whole images."
    text = _TEXT.format(
        title=description["file"],
        file=description["file"],
        runtime=runtime,
        needs=needs,
        description=DESCRIPTION,
        example=EXAMPLE,
        rows="\n".join(f"| {name} | {' '.join(text.split())} |" for name, text in rows.items()),
        min_size=sizes["min_size"] or "its own",
        max_size=sizes["max_size"],
        height=sizes["height"],
        width=sizes["width"],
        pad=", ".join(f"{value:g}" for value in sizes["pad_value"]),
        dropped=DROPPED,
        most=post["max_instances"],
        nms=nms if post["nms_threshold"] < 1 else "",
        fits=_FITS[fits],
        tiles=tiles if exported.config.TEST.TILES.ENABLED else "",
    )
    (folder / README).write_text(text, encoding="utf-8")


def _shape(shape: Sequence[object]) -> str:
    return " x ".join(map(str, shape))
