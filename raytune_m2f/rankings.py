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
from raytune_m2f.evaluation import CocoEvaluator, Evaluation
from raytune_m2f.evaluation.bootstrap import DRAWS, Interval, drawn, standard_error
from raytune_m2f.evaluation.overlaps import Floats
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
AGNOSTIC = "NMS_CLASS_AGNOSTIC"
"""Tried both ways; with all sieves it is the configuration's."""
NO_SIEVE, ALL_SIEVES = "none", "all"
SCORES = ("segm/AP", "segm/AP_all")
"""By which the rows are told apart, as far as they are there."""


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
        drawn: for each of `SCORES` its values (B,) for draws of the images, the same draws in every row.
    """

    ranking: str
    sieve: str
    instances: float
    metrics: dict[str, float]
    drawn: dict[str, Floats]

    def over(self, other: Row, score: str) -> Interval:
        """How much higher a score of this row is than the other's on the same images."""
        return Interval(
            self.metrics[score] - other.metrics[score], standard_error(self.drawn[score] - other.drawn[score])
        )


@dataclass(frozen=True)
class RankingComparison:
    """Every ranking without a sieve, with each and with all, on the same images.

    Attributes:
        rows: a ranking after the other; the first is Mask2Former's without a sieve.
        heads: the subcategory heads that were scored.
        images: how many images there are.
        max_detections: TEST.DETECTIONS_PER_IMAGE: instances kept, and counted by COCO's evaluation (maxDets).
    """

    rows: tuple[Row, ...]
    heads: tuple[str, ...]
    images: int
    max_detections: int

    @property
    def scores(self) -> tuple[str, ...]:
        """Those of `SCORES` that there are."""
        return tuple(score for score in SCORES if score in self.rows[0].metrics)

    def best(self, score: str) -> Row | None:
        """The first of the rows with the highest value; None where no row has one."""
        measured = [row for row in self.rows if not math.isnan(row.metrics[score])]
        return max(measured, key=lambda row: row.metrics[score], default=None)

    def table(self) -> list[list[str]]:
        """As text, the heads of the columns first; behind each score its difference to the first row."""
        joint = [f"segm/AP_joint_{head}" for head in self.heads]
        names = [n for n in ("segm/AP", "segm/AP50", *joint, "segm/AP_all") if n in self.rows[0].metrics]
        lines = [["RANKING", "sieve"], *([row.ranking, row.sieve] for row in self.rows)]
        for name in names:
            columns = [[name, *(_number(row.metrics[name]) for row in self.rows)]]
            if name in self.scores:
                columns.append(["to the first", "", *(_apart(row.over(self.rows[0], name)) for row in self.rows[1:])])
            for column in columns:
                lines = [[*line, cell] for line, cell in zip(lines, column, strict=True)]
        counts = ["instances an image", *(f"{row.instances:.1f}" for row in self.rows)]
        return [[*line, cell] for line, cell in zip(lines, counts, strict=True)]

    def verdict(self) -> Iterator[str]:
        """What is best, and what that means, in words."""
        for score in self.scores:
            if (best := self.best(score)) is not None:
                others = [row for row in self.rows if row is not best]
                alike = sum(not best.over(row, score).low > 0 for row in others)
                yield (
                    f"Best {score}: {best.metrics[score]:.2f}, by RANKING {best.ranking} with sieve {best.sieve}; "
                    f"{alike} of the {len(others)} other rows are not surely worse."
                )
        yield (
            "A difference to the first row has its interval of 95 %, from draws of the same images for both: one that "
            f"is smaller than what follows +- means nothing. The best of {len(self.rows)} rows is lucky, too."
        )
        yield (
            f"Of an image {self.max_detections} instances are kept, and counted by COCO's evaluation (maxDets; "
            "TEST.DETECTIONS_PER_IMAGE)."
        )

    def as_dict(self) -> dict[str, Any]:
        """For JSON; null where there is nothing to measure. Differences are to the first row."""
        return {"max_detections": self.max_detections, "images": self.images, "rows": list(map(self._entry, self.rows))}

    def _entry(self, row: Row) -> dict[str, Any]:
        apart = {score: row.over(self.rows[0], score) for score in self.scores}
        return {
            "ranking": row.ranking,
            "sieve": row.sieve,
            "instances": row.instances,
            "metrics": {name: _or_none(value) for name, value in row.metrics.items()},
            "difference": {
                score: {"difference": _or_none(each.value), "standard_error": _or_none(each.error)}
                for score, each in apart.items()
            },
        }


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def _apart(difference: Interval) -> str:
    return "" if math.isnan(difference.error) else f"{difference.value:+.2f} +- {difference.margin:.2f}"


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def variants(test: MaskFormerTest, *, heads: bool) -> list[Variant]:
    """What is compared: each ranking without sieve, with each sieve and with all of them.

    Args:
        test: the configuration's; its values of sieves are taken where they are on.
        heads: whether there are subcategory heads: without, all rankings are one, and there is no sieve of them.
    """
    off = {key: MaskFormerTest.model_fields[key].default for key in (*SIEVES, AGNOSTIC)}
    own = {key: getattr(test, key) for key in off}
    tried = {key: own[key] if own[key] != off[key] else value for key, value in SIEVES.items()}
    if not heads:
        tried = {key: tried[key] for key in ("CLASS_THRESHOLD", "NMS_THRESHOLD")}
    sieves: dict[str, dict[str, Any]] = {NO_SIEVE: {}}
    sieves |= {f"{key} {value}": {key: value} for key, value in tried.items()}
    threshold = tried["NMS_THRESHOLD"]
    sieves[f"NMS_THRESHOLD {threshold}, in a category"] = {"NMS_THRESHOLD": threshold, AGNOSTIC: False}
    sieves[ALL_SIEVES] = {**tried, AGNOSTIC: own[AGNOSTIC]}
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
        the evaluator, which has evaluated the model as it is configured, and the comparison.

    Raises:
        ModelError: the network is one of detectron2's, which has no queries to rank.
    """
    test = exported.ranking_section
    compared = variants(test, heads=bool(exported.categories.subcategories))
    evaluator = evaluator_of(exported, annotations, images, max_megapixels=max_megapixels)
    found: list[list[PackedInstances[Rle]]] = []
    samples: list[TestSample] = []
    for sample, pixels in images_of(evaluator.dataset, max_megapixels=max_megapixels, progress=progress):
        variants_of_image = exported.predict_variants(pixels, [test, *(variant.test for variant in compared)])
        found.append([instances.to("cpu") for instances in variants_of_image])
        samples.append(sample)

    def scored(number: int) -> Evaluation:
        evaluator.reset()
        evaluator.process(samples, [of_image[number] for of_image in found])
        evaluator.evaluate()
        return evaluator.evaluation

    draws = exported.config.TEST.BOOTSTRAP or DRAWS
    with still(log, "scoring"):
        rows = []
        for number, variant in enumerate(compared, start=1):
            evaluation = scored(number)
            mean = sum(len(of_image[number]) for of_image in found) / len(found)
            values = drawn(evaluation.measures.headlines, evaluation.measures.images, draws)
            rows.append(Row(variant.test.RANKING, variant.sieve, mean, evaluation.metrics, values))
        heads = tuple(scored(0).heads)  # the last: the evaluator then holds the results of the model as it is
    most = exported.config.TEST.DETECTIONS_PER_IMAGE
    return evaluator, RankingComparison(tuple(rows), heads, len(found), most)
