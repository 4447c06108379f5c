"""What a search climbs: the metric, and where that is as good as 0 the training loss, which tells such trials apart.

Early in a training, and to its end with a learning rate far too low, nothing or next to nothing is found: AP is 0.00 in
trial after trial, so no rung can tell them apart and no sampler learns anything. Real curves (139 trainings of the
synthetic shapes, final AP on a test set from 0 to 56) say what foretells the end: of the trials with AP below 1 after
an eighth and a quarter of their training, AP itself has a Spearman correlation of 0.68 and 0.43 with the end. With the
training loss in its place below 0.1 it is 0.69 and 0.78; with the loss on validation images 0.69 and 0.73, with AP at
IoU 0.1 to 0.45 it is 0.52 and 0.46, with the mean best IoU 0.30 and 0.37. The training loss is in every report already.

Trials are compared, so the loss is that under the configuration's own weights: a searched weight is divided out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from raytune_m2f.training.objective import Objective
from raytune_m2f.training.reports import Report

FLAT = 0.1
"""Below this AP (0 to 100) the loss says more of a trial than the AP does."""
_FORMER = "MODEL.MASK_FORMER"
_WEIGHTS = {
    "loss_ce": f"{_FORMER}.CLASS_WEIGHT",
    "loss_mask": f"{_FORMER}.MASK_WEIGHT",
    "loss_dice": f"{_FORMER}.DICE_WEIGHT",
    "loss_heatmap": f"{_FORMER}.HEATMAP_WEIGHT",
    "loss_blob": f"{_FORMER}.BLOB_WEIGHT",
}
"""The weight of each term; that of any other is SUBCATEGORY_WEIGHT."""
_OF_SUBCATEGORIES = f"{_FORMER}.SUBCATEGORY_WEIGHT"
_WITHOUT_NO_OBJECT = ("loss_mask", "loss_dice", "loss_heatmap", "loss_blob")
_NO_OBJECT = f"{_FORMER}.NO_OBJECT_WEIGHT"
"""It weighs the queries within each cross-entropy, and cannot be divided out: these terms are then left out."""
_CHANGE_THE_SUM = (f"{_FORMER}.DEC_LAYERS", f"{_FORMER}.DEEP_SUPERVISION", f"{_FORMER}.QUERY_SELECTION")
"""Each output, or head, has a loss: where their number is searched, losses of two trials cannot be compared."""


def may_be_flat(objective: Objective) -> bool:
    """Whether a metric is a mean of shares of what was found, from 0 to 100: AP, AR, or a sum of such."""
    return all(
        weight > 0 and key.startswith(("segm/AP", "segm/AR")) and not key.endswith("_se")
        for weight, key in objective.terms
    )


def flat_below(objective: Objective) -> float:
    """Below this the loss is climbed in the metric's place."""
    return FLAT * sum(weight for weight, _ in objective.terms) if may_be_flat(objective) else -math.inf


def climbed(objective: Objective, report: Report, values: Mapping[str, Any], own: Mapping[str, Any]) -> float:
    """The score of a report by which a search compares trials; more is better.

    Args:
        values: the searched keys, as the trial is trained with.
        own: the configuration's own values of these keys.
    Returns:
        the metric; or, where it is an AP below 0.1, a number from 0 to 0.1 that rises as the training loss falls.
        Raises as `Objective.value`.
    """
    value, flat = objective.value(report), flat_below(objective)
    if value >= flat or (loss := comparable_loss(report, values, own)) is None:
        return value
    return flat / 2 * (1 - loss / (1 + abs(loss)))


def comparable_loss(report: Report, values: Mapping[str, Any], own: Mapping[str, Any]) -> float | None:
    """The training loss under the configuration's own weights; None where losses cannot be compared or are not there.

    Of an engine's own network, whose terms and weights are not known here, it is the loss as it is reported.
    """
    if any(key in values for key in _CHANGE_THE_SUM):
        return None
    loss = _number(report.get("loss"))
    terms = {name: _number(value) for name, value in report.items() if name.startswith("loss_")}
    if _NO_OBJECT in values:
        loss = _sum(terms[name] for name in _WITHOUT_NO_OBJECT if name in terms)
        terms = {name: value for name, value in terms.items() if name in _WITHOUT_NO_OBJECT}
    for name, term in terms.items():
        key = _WEIGHTS.get(name, _OF_SUBCATEGORIES)
        if key in values and values[key] > 0:
            loss = _sum([loss, None if term is None else term * (own[key] / values[key] - 1)])
    return loss


def _number(value: Any) -> float | None:
    """None stands in the record for what was not finite."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _sum(terms: Iterable[float | None]) -> float | None:
    found = list(terms)
    return None if not found or None in found else sum(term for term in found if term is not None)
