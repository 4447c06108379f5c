"""Search spaces: which keys of the configuration Optuna may change, and within what range.

entries.py   one line of a space: its format, and the pydantic models that validate it
space.py     SearchSpace: conditions and shares, suggesting and resolving the values of a trial
check.py     spaces found by name, and checked against a configuration
grid.py      all combinations, for an ablation
changes.py   whether a study can continue with another space
"""

from raytune_m2f.study.space.check import check_space, load_space, packaged_spaces
from raytune_m2f.study.space.space import SearchSpace

__all__ = ["SearchSpace", "check_space", "load_space", "packaged_spaces"]
