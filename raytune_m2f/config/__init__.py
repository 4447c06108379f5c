"""The configuration of an experiment, in detectron2's keys.

load.py        YAML, `_BASE_` and KEY=VALUE
schema.py      Config: the whole
fields/        its sections, with a description, unit and bounds for every key
build.py       layers checked together, every problem in one error
keys.py        what keys there are and what they allow, "did you mean"
foreign.py     keys of detectron2's that are refused, and what to do instead
any_model.py   the keys of any other network of detectron2's, by detectron2 itself
imports.py     DATASETS.IMPORT: the user's own modules
paths.py       `~`, $VARIABLE and relative paths
shipped.py     those that come with the package, by name
yaml_file.py   safe YAML without double keys
nested.py      nested dictionaries and dotted keys
"""

from raytune_m2f.config.fields.data import DatasetEntry
from raytune_m2f.config.keys import KeyInfo, known_keys
from raytune_m2f.config.load import load_config
from raytune_m2f.config.schema import Config

__all__ = ["Config", "DatasetEntry", "KeyInfo", "known_keys", "load_config"]
