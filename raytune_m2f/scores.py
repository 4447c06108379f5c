"""What the evaluation of an exported model says: every metric with its standard error, and how that is told in words
and in JSON."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from raytune_m2f.evaluation.bootstrap import DRAWS, Difference, Interval, differences, intervals
from raytune_m2f.evaluation.evaluator import Evaluation
from raytune_m2f.evaluation.subcategories import HeadEvaluation

if TYPE_CHECKING:
    from raytune_m2f.rankings import RankingComparison

SURE = 0.95
"""From this share of the draws on, one model is said to be better than another."""


@dataclass(frozen=True)
class Against:
    """This model beside another one on the same images.

    Attributes:
        name: the other model.
        differences: this one (A) and the other one (B) in every metric that both have.
    """

    name: str
    differences: dict[str, Difference]

    def verdict(self, metric: str) -> str:
        """Which model is better in a metric, and how sure that is."""
        _, _, (difference, error), better = self.differences[metric]
        if math.isnan(better):
            return f"{metric}: it cannot be told which one is better"
        if error == 0.0:
            return (
                f"{metric}: both the same" if difference == 0 else f"{metric}: {difference:+.2f}, whatever the images"
            )
        text = f"{metric}: {difference:+.2f} +- {Interval(difference, error).margin:.2f} (95 %)"
        if max(better, 1 - better) < SURE:
            return f"{text}: on these images it cannot be told which one is better"
        which, share = ("this model", better) if better > 0.5 else (self.name, 1 - better)
        return f"{text}: {which} is better, in {100 * share:.1f} % of {DRAWS} draws of the images"


class Scores(dict[str, float]):
    """Every metric by its name, in percent; NaN where there is no ground truth.

    Attributes:
        evaluation: how it was measured.
        max_detections: how many detections of an image and category counted (TEST.DETECTIONS_PER_IMAGE).
        error_gains: how far AP50 would rise if one kind of error were mended: see `evaluation.coco.error_gains`.
        against: the comparison with another model, if it was asked for.
        rankings: the comparison of rankings and sieves, if it was asked for.
    """

    def __init__(
        self,
        evaluation: Evaluation,
        *,
        error_gains: dict[str, float] | None = None,
        against: tuple[str, Evaluation] | None = None,
        rankings: RankingComparison | None = None,
    ) -> None:
        super().__init__(evaluation.metrics)
        self.evaluation = evaluation
        self.max_detections = evaluation.measures.max_detections
        self.error_gains = error_gains or {}
        self.rankings = rankings
        self.against = None
        if against is not None:
            name, other = against
            self.against = Against(name, differences(evaluation.measures, other.measures))

    @property
    def heads(self) -> dict[str, HeadEvaluation]:
        """Each subcategory head with its confusion table."""
        return self.evaluation.heads

    @property
    def counts(self) -> dict[str, int]:
        """Of how many annotations each metric is."""
        return self.evaluation.measures.counts

    @property
    def images(self) -> int:
        """How many there were."""
        return self.evaluation.measures.images

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Each metric with its standard error over the images, by the bootstrap."""
        return intervals(self.evaluation.measures)

    def remarks(self) -> Iterator[str]:
        """What the numbers do not say by themselves."""
        gains = {kind: gain for kind, gain in self.error_gains.items() if gain > 0}
        if gains:
            kinds = ", ".join(f"{kind} {gain:.1f}" for kind, gain in sorted(gains.items(), key=lambda kind: -kind[1]))
            yield f"what AP50 would gain if one kind of error were mended (TIDE): {kinds}"
        for head, evaluation in self.heads.items():
            yield from self._of_head(head, evaluation)

    def _of_head(self, head: str, evaluation: HeadEvaluation) -> Iterator[str]:
        if not evaluation.labelled:
            yield f"{head}: no annotation has a label"
            return
        if not evaluation.matched:
            yield f"{head}: none of {evaluation.labelled} labelled instances found: nothing is known of this head"
            return
        accuracy, majority, balanced = (
            self[f"{head}/{name}"] for name in ("accuracy", "majority", "balanced_accuracy")
        )
        found = f"{head}: {evaluation.matched} of {evaluation.labelled} labelled instances found, {accuracy:.1f} % of"
        other = f"to say always {evaluation.majority!r} would get {majority:.1f} %"
        worse = f": no better than that (balanced accuracy {balanced:.1f})" if accuracy <= majority else ""
        yield f"{found} them right; {other}{worse}"
        task = self.evaluation.measures.task
        joint, lower = (self[f"{task}/AP_{kind}_{head}"] for kind in ("joint", "lower"))
        if joint < lower:
            yield f"{head}: joint AP {joint:.2f}, below the {lower:.2f} of the scores alone: worse than no head"

    def as_dict(self) -> dict[str, Any]:
        """For JSON; null where there is nothing to measure."""
        content: dict[str, Any] = {
            "metrics": {name: _number(value) for name, value in self.items()},
            "standard_errors": {name: _number(interval.error) for name, interval in self.intervals.items()},
            "counts": self.counts,
            "error_gains": {kind: _number(gain) for kind, gain in self.error_gains.items()},
            "images": self.images,
            "max_detections": self.max_detections,
            "subcategories": {name: list(head.classes) for name, head in self.heads.items()},
            "confusion": {name: head.confusion.tolist() for name, head in self.heads.items()},
        }
        if self.against is not None:
            content["against"] = {
                "model": self.against.name,
                "metrics": {
                    name: {
                        "this": _number(each.a),
                        "other": _number(each.b),
                        "difference": _number(each.difference.value),
                        "standard_error": _number(each.difference.error),
                        "better": _number(each.better),
                    }
                    for name, each in self.against.differences.items()
                },
            }
        if self.rankings is not None:
            content["rankings"] = self.rankings.as_dict()
        return content


def _number(value: float) -> float | None:
    return None if math.isnan(value) else value
