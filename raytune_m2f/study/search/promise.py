"""Who goes on at a rung (`--sampler auto` with promotion): what each trial promises, not what it has shown so far.

Curves cross. On the table of the nuclei (benchmarks/2026-11-26-search.md) the trials that are best in the end have an
AP of 0.5 after an eighth of their training, where those with lower learning rates have 5: compared at the rung, the
best wait for ever. What is compared is therefore where the model of all curves expects a trial to end, and one standard
deviation on top: a trial whose end is not known well is worth finding out about (an upper confidence bound; Srinivas et
al., Gaussian Process Optimization in the Bandit Setting, 2010, equation 6, with a constant weight).
"""

from __future__ import annotations

from collections.abc import Sequence

from raytune_m2f.study.search.axes import Axes
from raytune_m2f.study.search.choose import FEWEST
from raytune_m2f.study.search.curves import Curve
from raytune_m2f.study.search.model import CurveModel

HOPE = 1.0
"""Standard deviations on top of the mean. Chosen from 0, 0.5, 1 and 2 on both tables, 60 to 100 studies each."""


def promises(axes: Axes, numbered: Sequence[tuple[int, Curve]], max_iter: int) -> dict[int, float]:
    """What each trial with a score promises; of a trial at its end, its best score. Empty as long as there is no model.

    Earlier studies are left out: they say where to look. A misleading one that also said who goes on cost most of the
    first two trainings (benchmarks/2026-11-26-search.md).

    Args:
        numbered: the curves of all trials that have begun, and of earlier studies, each with its trial's number.
    """
    own = [(number, curve) for number, curve in numbered if not curve.task]
    if sum(bool(curve.scores) for _, curve in own) < FEWEST:
        return {}
    model = CurveModel.fit(axes, [curve for _, curve in own], max_iter)
    found = {}
    for place, (number, curve) in enumerate(own):
        if curve.scores:
            mean, spread = model.final(place)
            found[number] = curve.best if curve.last >= max_iter else mean + HOPE * spread
    return found
