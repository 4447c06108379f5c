"""What the record holds of a trial beside Optuna's parameters and values: its attributes, and a failure in short."""

from __future__ import annotations

import hashlib
import re
from typing import Annotated, Any

from optuna.trial import FrozenTrial
from pydantic import AfterValidator, ConfigDict, TypeAdapter
from typing_extensions import TypedDict

_FRAME = re.compile(r'File "(?:.*/)?(?P<file>[^"/]+)", line \d+, in (?P<function>\S+)')
_VARYING = re.compile(r"/\S+|0x[0-9a-f]+|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")  # paths, addresses and numbers


def _flat(report: dict[str, Any]) -> dict[str, Any]:
    """The report, whose counts are numbers. By hand, as a union in each entry takes pydantic ten times as long."""
    plain = all(isinstance(entry, int | float | str | None) for entry in report.values())
    if not plain or not all(isinstance(report.get(name, 0), int | float) for name in COUNTS):
        raise ValueError("it is no flat report")
    return report


COUNTS = ("iteration", "seconds", "images", "segm/AP_se")
Report = Annotated[dict[str, Any], AfterValidator(_flat)]


class Gains(TypedDict):
    """`GainChecks` as JSON."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    asked: str
    since: int
    at: list[int]
    gains: list[dict[str, float]]


class Typed(TypedDict):
    """A command line, and when it was given (UTC)."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    when: str
    command: str


class Attributes(TypedDict, total=False):
    """The attributes of a trial, and the last ones of the study, by name, with their types; each may be missing.

    The record is read from a file that anybody may have changed, and trusted once it fits these types.
    """

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]  # as pydantic asks for it

    origin: str
    """Why this point: `config`, `published`, `grid`, `pbt`, `earlier` (a best point of an earlier study), or the trial
    that `confirm` trains again."""
    prior: str
    """`trial N of STUDY`, the earlier one that it was run in, if it was not run here."""
    asked: Any
    """All its values are drawn."""
    trained: dict[str, Any]
    """Its shares as they are trained, where they differ from what was drawn."""
    best: Report
    best_iteration: int
    """All metrics of the best report, and its iteration."""
    climbed: dict[str, float]
    """Iteration to what is climbed there, where that is not the metric; see `training/climb.py`."""
    last: Report
    """All metrics of the latest report; the entries to `checkpoint` are taken from it."""
    effective_lr: Any
    micro_batch: Any
    host: Any
    gpus: float
    gpu_seconds: float
    checkpoint: str
    rung: int
    """The highest rung at which it was let through."""
    paused: int | None
    """The rung at which it waits, None once it goes on."""
    stopped: str
    """Why it was stopped early."""
    replaced_at: int
    """pbt: the rung at which it left its place."""
    parent: int
    start: int
    replaces: int
    """pbt: whose checkpoint it took over, at which iteration, and whose place."""
    inherited: float
    """pbt: the seconds of that checkpoint."""
    node_losses: int
    """How often its process died with its node."""
    error_type: str
    cause: str
    fingerprint: str
    log_tail: list[str]
    """Why it failed."""
    fixed_params: dict[str, Any]
    """Optuna's: the values of a queued point."""
    sessions: dict[str, float]
    """Of the study: how long each driver has been driving [s]."""
    leaks_freed: int
    """Of the study: what ended trials had left in the cluster."""
    commands: list[Typed]
    """Of the study: what was typed to make it, the oldest first."""
    gains: Gains
    """Of the study: what further trials were expected to bring; see `gains.py`."""


class Operation(TypedDict, total=False):
    """The entries of a line of Optuna's journal that mean the same in all of them."""

    __pydantic_config__ = ConfigDict(strict=True)  # type: ignore[misc]

    user_attr: Attributes
    system_attr: Attributes
    user_attrs: Attributes
    system_attrs: Attributes
    study_id: int
    trial_id: int
    step: int
    study_name: str
    worker_id: str
    param_name: str
    distribution: str
    param_value_internal: float
    intermediate_value: float
    directions: list[float]
    params: dict[str, float]
    distributions: dict[str, Any]
    intermediate_values: dict[str, float]
    values: list[float] | None


OPERATION = TypeAdapter(Operation)


def fingerprint(error_type: str, cause: str, trace: str = "") -> str:
    """The same for two failures of one kind at one place, whatever the numbers and paths in their messages."""
    frames = [f"{match['file']}:{match['function']}" for match in _FRAME.finditer(trace)]
    first_line = cause.strip().partition("\n")[0]
    essence = "\n".join([error_type, _VARYING.sub("#", first_line), *frames[-1:]])
    return hashlib.sha256(essence.encode()).hexdigest()[:10]


def failure_in_words(trial: FrozenTrial, log: str) -> str:
    """A failed trial for the user: its cause, its log's last lines, and where to look."""
    attributes: dict[str, Any] = trial.user_attrs
    tail = "\n".join(f"    {line}" for line in attributes.get("log_tail", []))
    return f"trial {trial.number}: {attributes['error_type']}: {attributes['cause']}\nlast lines of {log}:\n{tail}"
