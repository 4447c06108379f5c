"""Engines: where batches come from and predictions are scored. `ENGINE` in the configuration says which."""

from __future__ import annotations

from raytune_m2f.config import Config
from raytune_m2f.engines.base import Engine
from raytune_m2f.engines.native import NativeEngine
from raytune_m2f.errors import ConfigError

__all__ = ["Engine", "build_engine"]


def build_engine(config: Config) -> Engine:
    """The engine that `ENGINE` names; it is never guessed from what is installed."""
    if config.ENGINE == "native":
        return NativeEngine(config)
    raise ConfigError(
        f"ENGINE = {config.ENGINE!r} is not available in this version of raytune_m2f: use ENGINE: native."
    )
