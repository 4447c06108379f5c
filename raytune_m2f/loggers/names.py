"""The loggers by name, and what they need; imports none of them."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib.util import find_spec
from typing import Literal

from raytune_m2f.errors import ConfigError, MissingDependencyError
from raytune_m2f.storage.address import is_address

LoggerName = Literal["tensorboard", "mlflow", "wandb"]
PACKAGES: dict[LoggerName, tuple[str, ...]] = {
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow",),
    "wandb": ("wandb",),
}
"""What each imports; its extra has its name."""
TRACKING_URI = "MLFLOW_TRACKING_URI"


def require_loggers(names: Iterable[LoggerName], output: str | os.PathLike[str]) -> None:
    """Make sure, before anything starts, that the loggers of a run or a study can be written.

    Args:
        output: its directory, or its address on a store.

    Raises:
        MissingDependencyError: a package is not installed.
        ConfigError: there is nowhere to write to.
    """
    for name in names:
        missing = [package for package in PACKAGES[name] if find_spec(package) is None]
        if missing:
            raise MissingDependencyError(
                f"LOGGERS: {name} needs the package {missing[0]}, which is not installed: pip install "
                f"'raytune-m2f[{name}]', or leave {name} out of LOGGERS."
            )
        if name == "mlflow" and is_address(os.fspath(output)) and not os.environ.get(TRACKING_URI):
            raise ConfigError(
                f"LOGGERS: mlflow would keep its runs in a file beside {output}, which is on a store. Name a server in "
                f"the environment variable {TRACKING_URI}, on the nodes too, or leave mlflow out of LOGGERS."
            )
        if name == "wandb":
            _require_wandb_key()


def _require_wandb_key() -> None:
    """Raises ConfigError where W&B would send runs to its server and has no key for it."""
    mode = os.environ.get("WANDB_MODE", "online")
    if mode in ("offline", "disabled", "dryrun") or os.environ.get("WANDB_API_KEY"):
        return
    import wandb  # takes a second or two, and knows all places of a key

    if not wandb.login(prompt=False):
        raise ConfigError(
            "LOGGERS: wandb has no key for its server: run `wandb login`, set WANDB_API_KEY, or set WANDB_MODE=offline "
            "and send the runs later by `wandb sync`."
        )
