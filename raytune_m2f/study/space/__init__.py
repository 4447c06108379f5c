"""Search spaces: which keys of the configuration Optuna may change, and within what range.

entries.py   one line of a space: its format, and the pydantic models that validate it
space.py     SearchSpace: conditions and shares, the values of a trial, a grid of all of them
check.py     a space found by name, checked for a configuration and for a study that has begun
"""

from raytune_m2f.study.space.check import (
    check_space,
    load_space,
    packaged_spaces,
    refuse_fixed,
    space_changes,
    unread_priors,
)
from raytune_m2f.study.space.space import SearchSpace, grid

__all__ = [
    "SearchSpace",
    "check_space",
    "grid",
    "load_space",
    "packaged_spaces",
    "refuse_fixed",
    "space_changes",
    "unread_priors",
]
