"""What a study is asked to do, beside its configuration and its search space; saved in study.yaml."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import ErrorDetails

from raytune_m2f.errors import StudyError, did_you_mean, join_problems
from raytune_m2f.training.objective import Constraint, Objective

Sampler = Literal["auto", "tpe", "gp", "cmaes", "random", "grid"]
StoppingMethod = Literal["asha", "promotion", "pbt", "none"]


def usual_stopping(sampler: Sampler) -> StoppingMethod:
    """The method of early stopping that suits a sampler, where none is asked for."""
    usual: dict[Sampler, StoppingMethod] = {"auto": "promotion", "grid": "none"}
    return usual.get(sampler, "asha")


class _Settings(BaseModel, frozen=True, extra="forbid"):
    """Immutable; a name that is none is refused."""


class Usage(_Settings):
    """What a study has used of its budget so far; read from the record, so that downtime does not count."""

    trials: int = 0
    """Ever started, failed ones included."""
    iterations: int = 0
    """Reported optimizer steps, over all trials."""
    seconds: float = 0.0
    """Wall time during which a driver ran."""
    gpu_hours: float = 0.0
    """GPUs times the hours they were held, up to the last report of each trial."""


class Budget(_Settings):
    """When a study ends: at the first limit that is reached. None is no limit; one limit is needed.

    `trials` counts trials started, and lets the running ones finish. The others end the study at once: what runs
    is left unfinished in the record, and continues when the limit is raised.
    """

    trials: int | None = Field(default=None, ge=1)
    """Trials in total, failed ones included."""
    iterations: int | None = Field(default=None, ge=1)
    """Optimizer steps over all trials."""
    seconds: float | None = Field(default=None, gt=0)
    """Wall time in which the study is driven, in seconds."""
    gpu_hours: float | None = Field(default=None, gt=0)
    """GPUs times hours over all trials; a fraction of a GPU counts as that fraction."""

    @model_validator(mode="after")
    def _needs_a_limit(self) -> Budget:
        if not any((self.trials, self.iterations, self.seconds, self.gpu_hours)):
            raise ValueError("a study needs at least one limit above 0: trials, iterations, seconds or gpu_hours")
        return self

    def spent(self, usage: Usage) -> str | None:
        """The limit that ends all training, in words; None if none is reached."""
        if self.iterations is not None and usage.iterations >= self.iterations:
            return f"the budget of {self.iterations} iterations is used up"
        if self.seconds is not None and usage.seconds >= self.seconds:
            return f"the time limit of {self.seconds:g} seconds is reached"
        if self.gpu_hours is not None and usage.gpu_hours >= self.gpu_hours:
            return f"the budget of {self.gpu_hours:g} GPU-hours is used up"
        return None

    def allows_new_trial(self, usage: Usage) -> bool:
        """Whether another trial may start."""
        return (self.trials is None or usage.trials < self.trials) and self.spent(usage) is None


class EarlyStopping(_Settings):
    """What becomes of a trial that is worse than others at the same iteration (a rung); see `record/rungs.py`.

    The configuration's own values, which are tried first, are never stopped: they are the baseline. With `promotion`
    they wait, but are brought to their end in any case.
    """

    method: StoppingMethod = "asha"
    """`asha` ends it. `promotion` pauses it, and resumes it when the others turn out worse. `pbt` ends it and
    gives its place to a better one's checkpoint with changed values. `none` runs each trial to its end."""
    grace_iterations: int | None = Field(default=None, ge=1)
    """The first rung. None: a ninth of SOLVER.MAX_ITER (pbt: a fifth), at least one evaluation."""
    dead_heads: bool = False
    """Whether a trial ends too when one of its heads is dead: two reports in a row say that it has learned nothing, and
    the grace period is over; see `training/symptoms.py`."""
    reduction_factor: int = Field(default=3, ge=2)
    """One trial in so many continues at each rung, and the next rung is so many times later. With `pbt` the rungs are
    evenly spaced, and the worst one in so many trials is replaced by one of the best."""


class Resources(_Settings):
    """What one trial gets. None is chosen from what the cluster has, when the study runs."""

    workers: int | str = 1
    """Ray Train workers of a trial; one worker trains in the trial's own process. "2:8": as many of these as there is
    room for, changed while it trains; the global batch stays."""
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """None: one GPU if the cluster has any, else none. A fraction shares a GPU."""
    cpus_per_worker: int | None = Field(default=None, ge=1)
    """None: an equal share of the CPUs."""
    concurrent: int | None = Field(default=None, ge=1)
    """Trials at once at most; None: as many as fit."""

    @field_validator("workers")
    @classmethod
    def _parse_workers(cls, workers: int | str) -> int | str:
        found = re.fullmatch(r"([1-9]\d*)(?::([1-9]\d*))?", str(workers))
        if found is None or int(found[2] or found[1]) < int(found[1]):
            allowed = "allowed is a number above 0, or the fewest and the most like 2:8"
            raise StudyError(f"workers of a trial: got {str(workers)!r}; {allowed}")
        return str(workers) if found[2] not in (None, found[1]) else int(found[1])

    @property
    def fewest_workers(self) -> int:
        """What a trial needs to run."""
        return int(str(self.workers).split(":")[0])

    @property
    def most_workers(self) -> int:
        """What a trial takes if there is room."""
        return int(str(self.workers).split(":")[-1])


class StudySettings(_Settings):
    """How the search is done."""

    budget: Budget
    metrics: tuple[str, ...] = ("segm/AP",)
    """What is maximised (see `Objective`). Of several, trials are stopped, ranked and checkpointed by the first, and
    Optuna is told all of them, at the report where the first is best."""
    constraints: tuple[str, ...] = ()
    """Bounds on entries of a report (see `Constraint`), at the report with the best value."""
    sampler: Sampler = "auto"
    """How the next point is chosen; see `record/samplers.py`."""
    seed: int = Field(default=0, ge=0)
    """Seed of the search. The training's own seed is SEED in the configuration."""
    early_stopping: EarlyStopping = EarlyStopping()
    stop_when_flat: bool = False
    """Whether the study ends when further trials are expected to bring less than the noise; see `record/gains.py`."""
    resources: Resources = Resources()
    crash_retries: int = Field(default=1, ge=0)
    """How often a trial restarts after its process was killed. Lost nodes do not count; errors are final."""
    keep_checkpoints: int = Field(default=5, ge=1)
    """The weights of so many of the best trials are kept; those of the others are deleted when they have ended."""
    optuna_storage: str | None = None
    """Address of a database for the record; None: optuna.journal in the study directory. `${NAME}` in it is replaced
    by the environment variable, so that no password is written here."""
    optuna_study: str | None = None
    """The study's name in that database; None: it is the journal's only one."""

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], source: str = "settings of the study") -> StudySettings:
        """Settings from nested dictionaries; what is left out has its default.

        Raises:
            StudyError: naming every value that is wrong, what was got and what is allowed.
        """
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise StudyError(join_problems([f"{source}: {_describe(found)}" for found in error.errors()])) from None

    @field_validator("metrics", "constraints")
    @classmethod
    def _check_texts(cls, texts: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        if info.field_name == "metrics" and not texts:
            raise ValueError("a study needs a metric, such as segm/AP")
        for text in texts:
            (Objective if info.field_name == "metrics" else Constraint).parse(text)
        return texts

    @model_validator(mode="after")
    def _can_be_flat(self) -> StudySettings:
        why = {
            "sampler grid, which tries all its points": self.sampler == "grid",
            "early_stopping pbt, which changes values while a trial trains": self.early_stopping.method == "pbt",
            "several metrics, of which another may still rise": len(self.metrics) > 1,
        }
        if self.stop_when_flat and any(why.values()):
            what = next(text for text, is_so in why.items() if is_so)
            raise ValueError(f"stop_when_flat does not go with {what}; leave one of them out")
        return self

    @property
    def objectives(self) -> tuple[Objective, ...]:
        """`metrics`, parsed."""
        return tuple(Objective.parse(text) for text in self.metrics)

    @property
    def bounds(self) -> tuple[Constraint, ...]:
        """`constraints`, parsed."""
        return tuple(Constraint.parse(text) for text in self.constraints)

    @property
    def asked(self) -> tuple[Objective | Constraint, ...]:
        """All that reads a report."""
        return (*self.objectives, *self.bounds)


def _describe(found: ErrorDetails) -> str:
    """One of pydantic's findings: where, what was got and what is allowed."""
    replaced = {"missing": "missing", "extra_forbidden": "there is no such setting"}
    message = replaced.get(found["type"], found["msg"].removeprefix("Value error, "))
    if message.startswith("Input should be "):
        hint = did_you_mean(found["input"], re.findall("'(.*?)'", message))
        message = f"got {found['input']!r}, allowed: {message.removeprefix('Input should be ')}{hint}"
    return ": ".join(filter(None, [".".join(map(str, found["loc"])), message]))
