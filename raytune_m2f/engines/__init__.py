"""Engines: where batches come from and predictions are scored. `ENGINE` in the configuration says which.

base.py       Engine: the contract
datasets.py   the datasets of an experiment, an engine over them, and the default one
detectron2/   the engine of detectron2's catalogs, for our network or any of detectron2's
"""

from __future__ import annotations

from raytune_m2f.config import Config
from raytune_m2f.config.schema import AnyModelConfig
from raytune_m2f.engines.base import Engine
from raytune_m2f.engines.datasets import NativeEngine
from raytune_m2f.engines.detectron2.engine import AnyModelEngine, CatalogEngine

__all__ = ["Engine", "build_engine"]


def build_engine(config: Config) -> Engine:
    """The engine that `ENGINE` names; it is never guessed from what is installed.

    Raises:
        InputError: as the engines do.
    """
    if config.ENGINE == "native":
        return NativeEngine(config)
    return AnyModelEngine(config) if isinstance(config, AnyModelConfig) else CatalogEngine(config)
