"""`ENGINE: detectron2`. The package is importable without detectron2.

cfg.py       detectron2's configuration: defaults, checks, and the error where it is not installed
catalog.py   dictionaries of its catalogs: as our datasets, and through a mapper as samples
engine.py    the engines: our network or any other, on its catalogs
learner.py   any other network: its losses, optimizer, weights and predictions
library.py   all that is taken from detectron2; no other module imports it

The names of `__all__` are for a `train_net.py` of your own (docs/detectron2.md); importing one of them puts
MultiTaskMaskFormer into detectron2's registry of networks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raytune_m2f.config.keys import register_keys
from raytune_m2f.engines.detectron2.cfg import complete, load_library

if TYPE_CHECKING:
    from raytune_m2f.engines.detectron2.library import (
        MultiTaskMapper,
        MultiTaskMaskFormer,
        add_config,
        register_coco,
        register_datasets,
    )

__all__ = ["MultiTaskMapper", "MultiTaskMaskFormer", "add_config", "register_coco", "register_datasets"]

register_keys("detectron2", complete)


def __getattr__(name: str) -> Any:
    """The names of `__all__`. Raises MissingDependencyError where detectron2 is not installed."""
    if name in __all__:
        return getattr(load_library(), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
