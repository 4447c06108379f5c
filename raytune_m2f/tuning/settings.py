"""What a study is asked to do, beside its configuration and its search space; saved in study.yaml."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class Usage(_Settings):
    """What a study has used of its budget so far; read from the record, so that downtime does not count."""

    trials: int = 0
    """Trials ever started, failed ones included."""
    iterations: int = 0
    """Optimizer steps that were reported, over all trials."""
    seconds: float = 0.0
    """Wall time during which a driver ran."""
    gpu_hours: float = 0.0
    """GPUs held times the time they were held, up to the last report of each trial."""


class Budget(_Settings):
    """When a study ends: at the first limit that is reached. None is no limit; one limit is needed.

    `trials` counts trials started, and lets the running ones finish. The others end the study at once: what runs
    is left unfinished in the record, and goes on when the limit is raised.
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
            raise ValueError("a study needs at least one limit: trials, iterations, seconds or gpu_hours")
        return self

    def spent(self, usage: Usage) -> str | None:
        """Which limit forbids that training goes on at all, in words; None if none does."""
        if self.iterations is not None and usage.iterations >= self.iterations:
            return f"the budget of {self.iterations} iterations is used up"
        if self.seconds is not None and usage.seconds >= self.seconds:
            return f"the time limit of {self.seconds:g} seconds is reached"
        if self.gpu_hours is not None and usage.gpu_hours >= self.gpu_hours:
            return f"the budget of {self.gpu_hours:g} GPU-hours is used up"
        return None

    def allows_new_trial(self, usage: Usage) -> bool:
        return (self.trials is None or usage.trials < self.trials) and self.spent(usage) is None


class EarlyStopping(_Settings):
    """Asynchronous successive halving (ASHA) on iterations; see `asha.py`.

    The configuration's own values, which are tried first, are never stopped: they are the baseline.
    """

    method: Literal["asha", "none"] = "asha"
    """`none` runs each trial to its end."""
    grace_iterations: int | None = Field(default=None, ge=1)
    """No trial is stopped before. None: a ninth of SOLVER.MAX_ITER, at least one evaluation."""
    reduction_factor: int = Field(default=3, ge=2)
    """One trial in so many goes on at each rung, and the next rung is so many times later."""


class Resources(_Settings):
    """What one trial gets. None is chosen from what the cluster has, when the study runs."""

    workers: int = Field(default=1, ge=1)
    """Ray Train workers of a trial; one worker trains in the trial's own process."""
    gpus_per_worker: float | None = Field(default=None, ge=0)
    """None: one GPU if the cluster has any, else none. A fraction shares a GPU."""
    cpus_per_worker: int | None = Field(default=None, ge=1)
    """None: an equal share of the CPUs."""
    concurrent: int | None = Field(default=None, ge=1)
    """Trials at once at most; None: as many as fit."""


class StudySettings(_Settings):
    """How the search is done."""

    budget: Budget
    metric: str = "segm/AP"
    """The key of a report that is optimized; more is better."""
    seed: int = Field(default=0, ge=0)
    """Seed of the search. The training's own seed is SEED in the configuration."""
    early_stopping: EarlyStopping = EarlyStopping()
    resources: Resources = Resources()
    crash_retries: int = Field(default=1, ge=0)
    """How often a trial goes on after its process died without a word (killed, lost node). Errors are not retried."""
