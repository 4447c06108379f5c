"""Every metric of an evaluation as a function of how often each image counts.

Letters: C categories, I images, B weightings of the images.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from raytune_m2f.evaluation.joint import JointAP, joint_ap
from raytune_m2f.evaluation.matching import NONE
from raytune_m2f.evaluation.overlaps import Bools, Floats, Found, Task, Truths
from raytune_m2f.evaluation.ranked import Classes, Ranked, rank
from raytune_m2f.evaluation.subcategories import OF_FOUND_ALONE, HeadMatches, head_matches

EVERY_SIZE = (0.0, 1e5**2)
"""COCO's limits of an area, both within [pixels]."""
SIZES = {"s": (0.0, 32.0**2), "m": (32.0**2, 96.0**2), "l": (96.0**2, 1e5**2)}
AP50, AP75 = slice(0, 1), slice(5, 6)
"""The steps of an IoU of 0.50 and of 0.75 among COCO's thresholds."""


def bounds(max_detections: int) -> list[int]:
    """COCO's maxDets: 1, 10 and the largest number of detections that count."""
    return sorted({1, min(10, max_detections), max_detections})


@dataclass(frozen=True)
class Measures:
    """A dataset and what was found in it, matched as often as a metric asks for it.

    Attributes:
        truths, found: what is compared.
        task: by what, masks or boxes; the names of the metrics begin with it.
        categories: the names of the C categories.
        max_detections: how many detections of an image and category count.
    """

    truths: Truths
    found: Found
    task: Task
    categories: tuple[str, ...]
    max_detections: int

    @property
    def images(self) -> int:
        """I."""
        return len(self.truths.by_image)

    @property
    def once(self) -> Floats:
        """(I, 1): every image counts once."""
        return np.ones((self.images, 1))

    @cached_property
    def main(self) -> Ranked:
        """The detections as their categories."""
        return _ranked(self.truths, self.found, EVERY_SIZE)

    @cached_property
    def sized(self) -> dict[str, Ranked]:
        """The same for each size of `SIZES`."""
        return {size: _ranked(self.truths, self.found, limits) for size, limits in SIZES.items()}

    @cached_property
    def joint(self) -> dict[tuple[str, ...], JointAP]:
        """Joint AP by the names of its heads: each head alone, and all together."""
        heads = tuple(self.truths.heads)
        groups = dict.fromkeys([*((head,) for head in heads), heads]) if heads else {}
        return {names: joint_ap(self.truths, self.found, names) for names in groups}

    @cached_property
    def heads(self) -> dict[str, HeadMatches]:
        """Where each subcategory head was asked."""
        return head_matches(self.truths, self.found, self.main)

    def values(self, weights: Floats) -> dict[str, Floats]:
        """(B,) each: every metric in percent, for each weighting (I, B) of the images; NaN without ground truth."""
        return self.standard(weights) | self.multitask(weights)

    def headlines(self, weights: Floats) -> dict[str, Floats]:
        """(B,) each: AP, and with subcategory heads AP_all: what a study most probably maximises."""
        values = {f"{self.task}/AP": _mean(self.main.precision(weights))}
        if self.truths.heads:
            values[f"{self.task}/AP_all"] = _mean(self.joint[tuple(self.truths.heads)].joint.precision(weights))
        return values

    def standard(self, weights: Floats) -> dict[str, Floats]:
        """COCO's metrics, in detectron2's names: those of `standard_metrics`."""
        main, most = self.main, bounds(self.max_detections)
        precision = main.precision(weights)
        values = {
            "AP": _mean(precision),
            "AP50": _mean(main.precision(weights, AP50)),
            "AP75": _mean(main.precision(weights, AP75)),
            **{f"AP{size}": _mean(ranked.precision(weights)) for size, ranked in self.sized.items()},
            **{f"AR{bound}": _mean(main.recall(weights, bound)) for bound in most},
            **{f"AR{size}": _mean(ranked.recall(weights, most[-1])) for size, ranked in self.sized.items()},
            **{f"AP-{name}": 100 * row for name, row in zip(self.categories, precision, strict=True)},
        }
        return {f"{self.task}/{name}": value for name, value in values.items()}

    def multitask(self, weights: Floats) -> dict[str, Floats]:
        """Joint AP with its bounds, and every head's measures."""
        values: dict[str, Floats] = {}
        for heads, joint in self.joint.items():
            aps = {bound: _mean(ap) for bound, ap in joint.values(weights).items()}
            if len(heads) == 1:
                values |= {f"{self.task}/AP_{bound}_{heads[0]}": ap for bound, ap in aps.items()}
            if heads == tuple(self.heads):
                values[f"{self.task}/AP_all"] = aps.pop("joint")
                values |= {f"{self.task}/AP_all_{bound}": ap for bound, ap in aps.items()}
        for head, matches in self.heads.items():
            if len(matches.labelled):
                values |= {f"{head}/{name}": value for name, value in matches.values(weights).items()}
            values[f"{head}/matched"] = weights[matches.image].sum(0)
        return values

    @property
    def counts(self) -> dict[str, int]:
        """Behind each metric, of how many annotations it is."""
        truths = np.bincount(self.main.truth_class, minlength=len(self.categories))
        names = ["AP", "AP50", "AP75", *(f"AR{bound}" for bound in bounds(self.max_detections))]
        counts = dict.fromkeys(names, len(self.main.truth_class))
        for size, ranked in self.sized.items():
            counts |= dict.fromkeys((f"AP{size}", f"AR{size}"), len(ranked.truth_class))
        counts |= {f"AP-{name}": int(count) for name, count in zip(self.categories, truths, strict=True)}
        for heads, joint in self.joint.items():
            labelled = len(joint.joint.truth_class)
            if len(heads) == 1:
                counts |= {f"AP_{bound}_{heads[0]}": labelled for bound in ("joint", "lower", "upper")}
            if heads == tuple(self.heads):
                counts |= dict.fromkeys(("AP_all", "AP_all_lower", "AP_all_upper"), labelled)
        named = {f"{self.task}/{name}": count for name, count in counts.items()}
        for head, matches in self.heads.items():
            found, labelled = len(matches.image), len(matches.labelled)
            named |= {f"{head}/{name}": found for name in OF_FOUND_ALONE}
            named |= {f"{head}/{name}": labelled for name in ("coverage", "found_and_right", "matched")}
        return named


def _ranked(truths: Truths, found: Found, limits: tuple[float, float]) -> Ranked:
    """The detections as their categories, of this size."""
    counts = ~truths.crowd & _within(truths.area, limits)
    classes = Classes(
        count=len(truths.categories),
        first=np.arange(len(truths.categories) + 1),
        truth=np.where(counts, truths.label, NONE),
        may_be=~counts[:, None],
        crowd=truths.crowd,
    )
    return rank(
        found,
        classes,
        truths,
        detection=np.arange(len(found.label)),
        klass=found.label,
        score=found.score,
        outside=~_within(found.area, limits),
    )


def _within(area: Floats, limits: tuple[float, float]) -> Bools:
    return (area >= limits[0]) & (area <= limits[1])


def _mean(values: Floats) -> Floats:
    """(B,) in percent: the mean of (K, B) over the classes that there are; NaN where there is none."""
    there = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(100 * np.where(there, values, 0).sum(0) / there.sum(0))
