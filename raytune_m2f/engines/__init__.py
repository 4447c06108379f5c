"""Engines: where batches come from and predictions are scored. `ENGINE` in the configuration says which."""

from __future__ import annotations

from raytune_m2f.config import Config
from raytune_m2f.engines.base import Engine
from raytune_m2f.engines.detectron2.engine import CatalogEngine
from raytune_m2f.engines.native import NativeEngine

__all__ = ["Engine", "build_engine"]


def build_engine(config: Config) -> Engine:
    """The engine that `ENGINE` names; it is never guessed from what is installed.

    Raises:
        InputError: as the engines do.
    """
    if config.ENGINE == "native":
        return NativeEngine(config)
    return CatalogEngine(config)
