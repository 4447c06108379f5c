"""Directories of trials that the record does not know any more.

A record that lost its end (to a crash, or because an older copy of it was restored) gives numbers out a second time. A
trial that gets the values that its number had before finds its own checkpoints and goes on from them. One that gets
other values must not: what is there is moved aside, and nothing of it is lost.
"""

from __future__ import annotations

import logging

from raytune_m2f.config.nested import flatten
from raytune_m2f.config.yaml_file import read_yaml
from raytune_m2f.errors import StudyError
from raytune_m2f.tuning.record import Record

log = logging.getLogger(__name__)

CONFIG = "config.yaml"


def set_aside_others(record: Record, number: int) -> None:
    """Move what another trial has left in the directory of a new one."""
    directory = record.directory
    directory.pull_trial(number)
    if (directory.trial(number) / CONFIG).exists() and not _is_its_own(record, number):
        aside = directory.set_aside(number)
        log.warning(
            "%s holds a training with other values than trial %d has, of a record that is lost: it is kept in %s",
            directory.address_of(directory.trial(number)),
            number,
            aside,
        )


def _is_its_own(record: Record, number: int) -> bool:
    try:
        there = flatten(read_yaml(record.directory.trial(number) / CONFIG, StudyError))
    except StudyError:
        return False
    values = record.values(record.trial(number))
    return all(key in there and there[key] == value for key, value in values.items())
