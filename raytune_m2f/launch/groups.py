"""The placement groups of trials' workers: noted by the workers, freed when their caller has gone.

A group holds CPUs, GPUs, processes and memory. Killing the caller of `train_on_workers` leaves it behind: Ray Train
frees it only with the help of the dashboard, and not always (ray#58515, #62753, #65447). So what an ended trial left is
looked for after each end, and every few seconds. A group belongs to the trial that has noted it, and is freed with it:
the trial may be handed out again at once, and would wait for ever for what it holds itself. One without a note may be
of a trial that is just starting: it is freed once every trial that ran when it was first seen has ended or has noted
another.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import ray
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group_table,
    remove_placement_group,
)

GROUP = ".placement_group"
"""The note of a trial's workers in the trial's directory: the id of their group."""
SWEEP_S = 3.0

log = logging.getLogger(__name__)


def own_group() -> str | None:
    """The id of the group that this process, a worker, runs in; None if it runs in none."""
    group = get_current_placement_group()
    return None if group is None else str(group.id.hex())


def release_workers(output_dir: Path) -> bool:
    """Free the placement group of workers whose caller has gone, and with it their processes.

    Returns:
        whether there was one that was still held.
    """
    group = noted_group(output_dir)
    if group is None:
        return False
    held = free_group(group)
    (output_dir / GROUP).unlink(missing_ok=True)
    return held


def noted_group(output_dir: Path) -> str | None:
    """The id of the placement group of the trial's workers, once they run; None before and after."""
    try:
        group = (output_dir / GROUP).read_text(encoding="ascii", errors="replace")
    except FileNotFoundError:
        return None
    whole = re.fullmatch(rf"[0-9a-f]{{{2 * ray.PlacementGroupID.size()}}}", group)
    return group if whole else None  # else killed while it was written


def free_group(group: str) -> bool:
    """Remove a placement group by its id, and with it the processes in it; whether it was still held."""
    found = PlacementGroup(ray.PlacementGroupID(bytes.fromhex(group)))
    held = bool(placement_group_table(found).get("state", "REMOVED") != "REMOVED")
    if held:
        remove_placement_group(found)
    return held


def own_job() -> str:
    """The id of this process's Ray job."""
    return str(ray.get_runtime_context().get_job_id())


class WorkerGroups:
    """The placement groups of the workers of a study's trials.

    Args:
        read: the group that a trial has noted, None if it has not yet.
        bundle: what one worker holds; groups of anything else are not of this study, nor those that are there already.
        table, free, job: of the cluster: all groups, how one is freed, and the id of this process's job.
    """

    def __init__(
        self,
        read: Callable[[int], str | None],
        bundle: Mapping[str, float],
        *,
        table: Callable[[], Mapping[str, Any]] = placement_group_table,
        free: Callable[[str], bool] = free_group,
        job: Callable[[], str] = own_job,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._read, self._bundle = read, dict(bundle)
        self._table, self._free_one, self._job, self._clock = table, free, job, clock
        self._others = self._held()
        self._noted: dict[int, str] = {}
        self._owners: dict[str, set[int]] = {}
        self._swept = -math.inf

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        """Ray Tune pickles the searcher, as it does the driver; what reads a store's notes cannot be."""
        return str, ("what is held is asked of the cluster",)

    def ended(self, number: int) -> int:
        """Free the group that a trial that has ended had noted, if it is still held; returns how many that are."""
        group = self._read(number)
        return self._free([group]) if group is not None else 0

    def sweep(self, running: Collection[int], *, often: bool = False) -> int:
        """Free the groups of trials that do not run any more; returns how many.

        Args:
            often: called very often: at most every SWEEP_S seconds something is done.
        """
        now = self._clock()
        if often and now - self._swept < SWEEP_S:
            return 0
        self._swept = now
        held = self._held() - self._others
        self._note(held, running)
        return self._free(self._leaked(held, {number: self._noted.get(number) for number in running}))

    def _free(self, groups: Collection[str]) -> int:
        freed = [group for group in groups if self._free_one(group)]
        for group in freed:
            log.warning("freed the placement group %s, which a trial that has ended had left", group)
        return len(freed)

    def _note(self, held: set[str], running: Collection[int]) -> None:
        """Find the owners of the held groups; notes, which may be far away, are read only for an unknown one."""
        self._noted = {number: group for number, group in self._noted.items() if number in running and group in held}
        if held - set(self._noted.values()):
            found = {number: self._read(number) for number in running if number not in self._noted}
            self._noted |= {number: group for number, group in found.items() if group is not None}

    def _leaked(self, held: set[str], noted: Mapping[int, str | None]) -> list[str]:
        """The held groups that no running trial owns or may own.

        Args:
            noted: the group that each running trial has noted, None if it has not yet.
        """
        unclear = {number for number, group in noted.items() if group not in held}
        unknown = held - set(noted.values())
        self._owners = {group: self._owners.get(group, set(noted)) & unclear for group in unknown}
        return [group for group, owners in self._owners.items() if not owners]

    def _held(self) -> set[str]:
        job = self._job()  # the last part of the id of what a job has made
        return {
            group
            for group, found in self._table().items()
            if group.endswith(job) and found["state"] != "REMOVED"
            if all(bundle == self._bundle for bundle in found["bundles"].values())
        }
