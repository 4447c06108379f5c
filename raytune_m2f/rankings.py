"""Rankings and sieves of MODEL.MASK_FORMER.TEST side by side: what each is worth on a data set."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from raytune_m2f.config.fields.model import MaskFormerTest
from raytune_m2f.data import TestSample
from raytune_m2f.data.masks import Rle
from raytune_m2f.evaluation import CocoEvaluator
from raytune_m2f.export import ExportedModel
from raytune_m2f.model import PackedInstances
from raytune_m2f.predict import Progress, evaluator_of, images_of
from raytune_m2f.progress import still

log = logging.getLogger(__name__)

SIEVES: dict[str, Any] = {
    "CLASS_THRESHOLD": 0.1,
    "SUBCATEGORY_THRESHOLD": 0.5,
    "DROP_NO_OBJECT": "any",
    "NMS_THRESHOLD": 0.5,
}
"""What a sieve is tried with where the configuration has it off. 0.1 is what was found useful by hand before there were
such keys; from 0.5 on a class is likelier than all others and no object together; two masks that share more than half
of their union cannot be those of two objects side by side."""
NO_SIEVE, ALL_SIEVES = "none", "all"
DRAWS = 100
"""Of images for the standard errors, where TEST.BOOTSTRAP is 0."""


@dataclass(frozen=True)
class Variant:
    """One way to choose and order instances.

    Attributes:
        sieve: `NO_SIEVE`, a key with its value, or `ALL_SIEVES`.
        test: the section that does it.
    """

    sieve: str
    test: MaskFormerTest


@dataclass(frozen=True)
class Row:
    """What a ranking with a sieve is worth.

    Attributes:
        ranking: value of RANKING.
        sieve: of `Variant`.
        instances: mean number of an image.
        metrics: all of them by name, in percent.
    """

    ranking: str
    sieve: str
    instances: float
    metrics: dict[str, float]


@dataclass(frozen=True)
class RankingComparison:
    """Every ranking without a sieve, with each and with all, on the same images.

    Attributes:
        metrics: of the model as it is configured: what `LoadedModel.evaluate` returns.
        rows: a ranking after the other.
        heads: the subcategory heads that were scored.
        images: how many images there are.
        max_detections: TEST.DETECTIONS_PER_IMAGE: instances kept, and counted by COCO's evaluation (maxDets).
    """

    metrics: dict[str, float]
    rows: tuple[Row, ...]
    heads: tuple[str, ...]
    images: int
    max_detections: int

    @property
    def columns(self) -> tuple[str, ...]:
        """The metrics that tell rankings apart, of those that there are."""
        joint = [f"segm/AP_joint_{head}" for head in self.heads]
        wanted = ("segm/AP", "segm/AP_se", "segm/AP50", *joint, "segm/AP_all")
        return tuple(name for name in wanted if name in self.rows[0].metrics)

    def best(self, metric: str) -> Row | None:
        """The first of the rows with the highest value; None where no row has one."""
        measured = [row for row in self.rows if not math.isnan(row.metrics[metric])]
        return max(measured, key=lambda row: row.metrics[metric], default=None)

    def verdict(self) -> Iterator[str]:
        """What is best, and what that means, in words."""
        for metric in ("segm/AP", "segm/AP_all"):
            if metric in self.columns and (best := self.best(metric)) is not None:
                yield from self._best(metric, best)
        yield (
            f"Of an image {self.max_detections} instances are kept, and counted by COCO's evaluation (maxDets; "
            "TEST.DETECTIONS_PER_IMAGE)."
        )

    def _best(self, metric: str, best: Row) -> Iterator[str]:
        highest, error = best.metrics[metric], best.metrics.get(f"{metric}_se", math.nan)
        text = f"Best {metric}: {highest:.2f}, by RANKING {best.ranking} with sieve {best.sieve}."
        if not math.isnan(error):
            close = sum(highest - row.metrics[metric] <= error for row in self.rows) - 1
            text += (
                f" Its standard error over images is {error:.2f}: {close} of the {len(self.rows) - 1} other rows are "
                "not further away than that, and such differences mean nothing."
            )
        yield text

    def as_dict(self) -> dict[str, Any]:
        """For JSON; null where there is nothing to measure."""
        rows = [
            {"ranking": row.ranking, "sieve": row.sieve, "instances": row.instances}
            | {name: None if math.isnan(value) else value for name, value in row.metrics.items()}
            for row in self.rows
        ]
        return {"max_detections": self.max_detections, "images": self.images, "rows": rows}


def variants(test: MaskFormerTest, *, heads: bool) -> list[Variant]:
    """What is compared: each ranking without sieve, with each sieve and with all of them.

    Args:
        test: the configuration's; its values of sieves are taken where they are on.
        heads: whether there are subcategory heads: without, all rankings are one, and there is no sieve of them.
    """
    off = {key: MaskFormerTest.model_fields[key].default for key in SIEVES}
    own = {key: getattr(test, key) for key in SIEVES}
    tried = {key: own[key] if own[key] != off[key] else value for key, value in SIEVES.items()}
    if not heads:
        tried = {key: tried[key] for key in ("CLASS_THRESHOLD", "NMS_THRESHOLD")}
    sieves: dict[str, dict[str, Any]] = {NO_SIEVE: {}}
    sieves |= {f"{key} {value}": {key: value} for key, value in tried.items()}
    sieves[ALL_SIEVES] = tried
    rankings = get_args(MaskFormerTest.model_fields["RANKING"].annotation) if heads else ("main",)
    return [
        Variant(name, test.model_copy(update={"RANKING": ranking, **off, **sieve}))
        for ranking in rankings
        for name, sieve in sieves.items()
    ]


def compare_rankings(
    exported: ExportedModel,
    annotations: Path,
    images: Path,
    *,
    max_megapixels: float | None = None,
    progress: Progress = lambda done, total, name: None,
) -> tuple[CocoEvaluator, RankingComparison]:
    """Score an exported model on a dataset by every ranking and sieve. The network sees each image once.

    Of an image only what was found is kept: numbers, and run lengths of each mask once.

    Args:
        annotations, images, max_megapixels, progress: of `evaluate_export`, also for what is raised.

    Returns:
        what `evaluate_export` returns, and the comparison.

    Raises:
        ModelError: the network is one of detectron2's, which has no queries to rank.
    """
    test = exported.ranking_section
    compared = variants(test, heads=bool(exported.categories.subcategories))
    draws = exported.config.TEST.BOOTSTRAP or DRAWS
    evaluator = evaluator_of(exported, annotations, images, max_megapixels=max_megapixels, bootstrap=draws)
    found: list[list[PackedInstances[Rle]]] = []
    samples: list[TestSample] = []
    for sample, pixels in images_of(evaluator.dataset, max_megapixels=max_megapixels, progress=progress):
        variants_of_image = exported.predict_variants(pixels, [test, *(variant.test for variant in compared)])
        found.append([instances.to("cpu") for instances in variants_of_image])
        samples.append(sample)

    def scored(number: int) -> dict[str, float]:
        evaluator.reset()
        evaluator.process(samples, [of_image[number] for of_image in found])
        return evaluator.evaluate()

    with still(log, "scoring"):
        rows = tuple(
            Row(
                variant.test.RANKING,
                variant.sieve,
                sum(len(of_image[number]) for of_image in found) / len(found),
                scored(number),
            )
            for number, variant in enumerate(compared, start=1)
        )
        metrics = scored(0)  # the last: the evaluator then holds the results of the model as it is
    heads, most = tuple(evaluator.evaluation.heads), exported.config.TEST.DETECTIONS_PER_IMAGE
    return evaluator, RankingComparison(metrics, rows, heads, len(found), most)
