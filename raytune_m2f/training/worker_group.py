"""The placement group of a trial's workers: noted in the trial's directory, so that whoever comes next can free it.

Killing the caller of `train_on_ray` leaves the group behind (ray#58515, #62753), and with it the workers' processes.
"""

from __future__ import annotations

import re
from pathlib import Path

import ray
from ray.util.placement_group import (
    PlacementGroup,
    get_current_placement_group,
    placement_group_table,
    remove_placement_group,
)

GROUP = ".placement_group"


def note_group(output_dir: Path) -> bool:
    """Note the group that this process, a worker, runs in; whether it runs in one."""
    group = get_current_placement_group()
    if group is not None:
        (output_dir / GROUP).write_text(group.id.hex())
    return group is not None


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
