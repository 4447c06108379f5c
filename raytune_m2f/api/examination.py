"""`diagnose`: what is wrong with a configuration, its data and its network, before GPU time is spent."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from raytune_m2f.api.studies import DEFAULT_TRIALS, Space, space_of
from raytune_m2f.api.training import PathOrAddress, config_of, describe_training
from raytune_m2f.config import Config
from raytune_m2f.config.load import Overrides
from raytune_m2f.errors import InputError
from raytune_m2f.progress import parse_duration
from raytune_m2f.study.settings import Budget

if TYPE_CHECKING:
    from raytune_m2f.doctor.examine import Diagnosis
    from raytune_m2f.doctor.finding import Check, Finding

log = logging.getLogger(__name__)


def diagnose(
    config: PathOrAddress | Config,
    *,
    overrides: Overrides = (),
    space: Space | None = None,
    trials: int | None = None,
    time: str | float | None = None,
    iterations: int | None = None,
    gpu_hours: float | None = None,
    workers_per_trial: int = 1,
    device: str | None = None,
    seconds: float = 120.0,
    quick: bool = False,
    begin: Callable[[Check], None] | None = None,
    found: Callable[[Finding], None] | None = None,
) -> Diagnosis:
    """Examine a configuration as `train` and `tune` would use it; nothing is written.

    Args:
        config: a file, the name of a shipped configuration, or a `Config`.
        overrides: `["KEY=VALUE", ...]` or `{"KEY": value}`; they win over the configuration.
        space: of the study to come: a file, the name of a shipped search space, or a `SearchSpace`.
        trials, time, iterations, gpu_hours: its budget, as `tune` takes them; without any 20 trials.
        workers_per_trial: Ray Train workers of a trial.
        device: where the network is examined, such as "cpu"; None: a GPU if there is one.
        seconds: how long the checks that train may take, all together.
        quick: only what takes seconds: data, evaluator and configuration.
        begin, found: called with each check before it looks, and with each finding as it is made.

    Raises:
        ConfigError, SearchSpaceError: the configuration or the search space cannot be read.
        InputError: `device` is none of this machine's.
    """
    loaded = config_of(config, overrides)
    searched = None if space is None else space_of(space, loaded)
    limits = {"trials": trials, "seconds": parse_duration(time), "iterations": iterations, "gpu_hours": gpu_hours}
    if all(limit is None for limit in limits.values()):
        limits["trials"] = DEFAULT_TRIALS
    log.info("doctor: %s", describe_training(loaded))
    import torch  # here: a wrong word costs no time

    from raytune_m2f.doctor.examine import Diagnosis, examine
    from raytune_m2f.doctor.subject import Subject

    subject = Subject(
        loaded,
        space=searched,
        budget=Budget.model_validate(limits),
        workers=workers_per_trial,
        device=torch.device(_device(device)),
        seconds=seconds,
    )
    findings = []
    for finding in examine(subject, quick=quick, begin=begin):
        findings.append(finding)
        if found is not None:
            found(finding)
    return Diagnosis(tuple(findings))


def _device(name: str | None) -> str:
    """Raises InputError unless torch has this device here."""
    import torch

    if name is None:
        return "cuda" if torch.cuda.is_available() else "cpu"
    there = ["cpu", *(f"cuda:{number}" for number in range(torch.cuda.device_count()))]
    if name not in there and not (name == "cuda" and len(there) > 1):
        raise InputError(f"device: got {name!r}, allowed on this machine: {', '.join(there)}")
    return name
