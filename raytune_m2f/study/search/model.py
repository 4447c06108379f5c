"""A Gaussian process over (keys, iteration) that has seen every report of every trial.

(The frame: filled in by the lead.)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from raytune_m2f.study.search.axes import Axes, Floats
from raytune_m2f.study.search.curves import Curve


@dataclass(frozen=True)
class CurveModel:
    """What is believed of scores, in the units of the scores.

    Attributes:
        axes: of the space.
        noise: standard deviation with which the same point scores twice (another seed), at the end.
    """

    axes: Axes
    noise: float

    @classmethod
    def fit(cls, axes: Axes, curves: Sequence[Curve], max_iter: int) -> CurveModel:
        """The model of these curves; deterministic. Curves without a score are left out.

        Raises:
            ValueError: there is no score at all.
        """
        raise NotImplementedError

    def predict(self, points: Sequence[Mapping[str, Any]], share: float = 1.0) -> tuple[Floats, Floats]:
        """(N,) mean and (N,) standard deviation of what new trials at these values would score without noise at this
        share of a training."""
        raise NotImplementedError

    def draws(
        self, points: Sequence[Mapping[str, Any]], count: int, random: np.random.Generator, share: float = 1.0
    ) -> Floats:
        """(count, N): joint draws of the same, without noise."""
        raise NotImplementedError

    def final(self, number: int) -> tuple[float, float]:
        """Mean and standard deviation of what curve `number` itself would score at the end."""
        raise NotImplementedError
