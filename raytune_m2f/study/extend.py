"""More of a study: a larger budget, or another search space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from optuna.trial import FrozenTrial

from raytune_m2f.errors import SearchSpaceError, StudyError
from raytune_m2f.study.directory import Point, StudyPlan
from raytune_m2f.study.settings import Budget, Usage
from raytune_m2f.study.space import SearchSpace, space_changes


@dataclass(frozen=True)
class Extension:
    """What is added to a study; each limit is raised by so much, one that there was not yet starts from what is used.

    Attributes:
        space: in place of the present one, for the trials to come.
        points: tried before the sampler is asked.
    """

    trials: int | None = None
    iterations: int | None = None
    seconds: float | None = None
    gpu_hours: float | None = None
    space: SearchSpace | None = None
    points: tuple[Point, ...] = ()

    def of(self, plan: StudyPlan, usage: Usage, trials: Sequence[FrozenTrial] = ()) -> StudyPlan:
        """The plan as it is from now on; `trials` are those of the study.

        Raises:
            StudyError: nothing is added, or a limit that was not raised forbids to go on.
            SearchSpaceError: the study cannot go on with the new space.
        """
        more = {"trials": self.trials, "iterations": self.iterations, "seconds": self.seconds}
        more["gpu_hours"] = self.gpu_hours
        for name, amount in more.items():
            if amount is not None and not amount > 0:
                raise StudyError(f"extend {name}: got {amount}, allowed: a number above 0 to raise it by")
        if not any(more.values()) and self.space is None:
            raise StudyError("nothing to extend: give --trials, --iterations, --time, --gpu-hours or --space")
        used, limits = usage.model_dump(), plan.settings.budget.model_dump()
        raised = {key: (limits[key] or used[key]) + amount for key, amount in more.items() if amount}
        budget = Budget(**{**limits, **raised})
        if (spent := budget.spent(usage)) is not None:
            raise StudyError(f"{spent}, so nothing would happen: extend that limit too")
        if self.space is not None and not budget.allows_new_trial(usage):
            raise StudyError("all trials are started, so the new space would not be used: give --trials too")
        points = (*plan.points, *(point for point in self.points if point not in plan.points))
        if plan.settings.sampler == "grid" and (budget.trials or 0) > len(points):
            raise StudyError(f"the grid has {len(points)} points; {budget.trials} trials are more than there are")
        if self.space is not None and (
            problems := space_changes(plan.space, self.space, plan.settings.sampler, trials)
        ):
            raise SearchSpaceError("\n".join(problems))
        return replace(
            plan,
            settings=plan.settings.model_copy(update={"budget": budget}),
            space=self.space or plan.space,
            points=points,
        )
