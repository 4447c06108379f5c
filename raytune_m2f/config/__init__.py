"""The configuration of an experiment, in detectron2's keys.

load.py        a configuration from YAML, `_BASE_` and KEY=VALUE; those that come with the package, by name
schema.py      Config: the whole
fields/        its sections, with a description, unit and bounds for every key
build.py       layers of values checked together, every problem in one error
keys.py        what keys there are and allow, those that are refused, those that an engine brings with it
paths.py       `~`, $VARIABLE and relative paths; DATASETS.IMPORT, the user's own modules
yaml_file.py   safe YAML without double keys, nested dictionaries and dotted keys
"""

from raytune_m2f.config.fields.data import DatasetEntry
from raytune_m2f.config.keys import known_keys
from raytune_m2f.config.load import load_config
from raytune_m2f.config.schema import Config

__all__ = ["Config", "DatasetEntry", "known_keys", "load_config"]
