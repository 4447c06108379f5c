"""What further trials were expected to bring, each time that this was asked: the record's part of `--stop-when-flat`.

A study is flat when the expected gain of more trials was below the noise at the last two checks. There is one check for
each number of trials that have ended or wait, from LEAST_TRIALS on, so that two in a row do not know the same. Once it
is flat it stays so, until it is asked for more (a larger budget, another space): then the checks begin anew.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from optuna import Study

from raytune_m2f.study.plan import StudyPlan
from raytune_m2f.study.search.insight import Gain

LEAST_TRIALS = 8
"""That have ended or wait, since the study began or was last asked for more."""
IN_A_ROW = 2
ATTRIBUTE = "gains"


@dataclass(frozen=True)
class GainChecks:
    """The checks of a study.

    Attributes:
        asked: a digest of what the study was asked for when they began.
        since: how many trials had ended or waited then.
        at: how many had at each of the last checks.
        gains: the findings of these.
    """

    asked: str
    since: int
    at: tuple[int, ...] = ()
    gains: tuple[Gain, ...] = ()

    @classmethod
    def of(cls, study: Study, plan: StudyPlan) -> GainChecks | None:
        """Those that still hold for what the plan asks; None without any."""
        noted = study.user_attrs.get(ATTRIBUTE)
        if noted is None or noted["asked"] != _digest(plan):
            return None
        return cls(noted["asked"], noted["since"], tuple(noted["at"]), tuple(Gain(**gain) for gain in noted["gains"]))

    @classmethod
    def begun(cls, study: Study, plan: StudyPlan, ended: int) -> GainChecks:
        """Those that hold, or none yet: of a new study from its first trial on, of one that was asked for more from
        the `ended` trials on that it had then."""
        anew = cls(_digest(plan), 0 if ATTRIBUTE not in study.user_attrs else ended)
        return cls.of(study, plan) or anew

    @property
    def flat(self) -> Gain | None:
        """The last finding, if the study is flat."""
        last = self.gains[-IN_A_ROW:]
        return last[-1] if len(last) == IN_A_ROW and all(gain.below_noise for gain in last) else None

    def is_due(self, ended: int) -> bool:
        """Whether to check again, with so many trials that have ended or wait."""
        return self.flat is None and ended - self.since >= LEAST_TRIALS and ended not in self.at

    def plus(self, ended: int, gain: Gain) -> GainChecks:
        """With one more finding; the oldest is forgotten."""
        at, gains = (*self.at, ended)[-IN_A_ROW:], (*self.gains, gain)[-IN_A_ROW:]
        return replace(self, at=at, gains=gains)

    def note(self, study: Study) -> None:
        """Write them into the record."""
        noted: dict[str, Any] = asdict(self)
        if study.user_attrs.get(ATTRIBUTE) != json.loads(json.dumps(noted)):
            study.set_user_attr(ATTRIBUTE, noted)


def _digest(plan: StudyPlan) -> str:
    asked = json.dumps([plan.settings.budget.model_dump(), plan.space.to_dict()])
    return hashlib.sha256(asked.encode()).hexdigest()[:10]
