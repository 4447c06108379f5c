"""detectron2's configuration node: its defaults, its check of a key, and our configuration as one."""

from __future__ import annotations

import importlib
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from raytune_m2f.config.fields.base import Section
from raytune_m2f.config.keys import Completed, foreign_advice, unknown_engine_key
from raytune_m2f.config.paths import import_modules
from raytune_m2f.config.yaml_file import flatten, merge, nest
from raytune_m2f.errors import ConfigError, InputError, MissingDependencyError

LIBRARY = f"{__package__}.library"
"""The one module that imports detectron2."""

INSTALL = (
    "pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git@02b5c4e295e990042a714712c21dc79b731e8833'"
)
"""As docs/detectron2.md has it."""

OUR_DEFAULTS = {"SEED": 0, "DATALOADER": {"ASPECT_RATIO_GROUPING": False}, "SOLVER": {"AMP": {"PRECISION": "float16"}}}
"""Defaults that are not detectron2's."""

DEFAULT_ONLY = (
    "OUTPUT_DIR", "CUDNN_BENCHMARK", "FLOAT32_PRECISION", "VIS_PERIOD", "MODEL.DEVICE", "MODEL.KEYPOINT_ON",
    "MODEL.LOAD_PROPOSALS", "SOLVER.REFERENCE_WORLD_SIZE", "DATALOADER.ASPECT_RATIO_GROUPING", "TEST.AUG.ENABLED",
    "TEST.EXPECTED_RESULTS", "TEST.PRECISE_BN.ENABLED",
)  # fmt: skip
"""Keys that no network honours here: they may have their default; `FOREIGN_KEYS` says what to do instead."""


def load_library() -> Any:
    """The module `library`. Raises MissingDependencyError where detectron2 is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of detectron2 about what it uses
            return importlib.import_module(LIBRARY)
    except ImportError as error:
        if error.name and error.name.startswith("raytune_m2f"):
            raise
        raise MissingDependencyError(
            f"ENGINE: detectron2 needs detectron2, which cannot be imported here ({error}). Install it: {INSTALL} "
            "(docs/detectron2.md has its known troubles), or tune our own network with ENGINE: native, which needs "
            "nothing but this package."
        ) from None


@contextmanager
def one_config_error(what: str) -> Iterator[None]:
    """Whatever detectron2 or a user's module raises while it builds `what`, of many kinds, as one ConfigError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = str(error) or traceback.extract_tb(error.__traceback__)[-1].line  # a bare assert says nothing
        raise ConfigError(
            f"detectron2 cannot build {what} from this configuration: {type(error).__name__}: {reason}"
        ) from error


def default_cfg(imports: Iterable[str]) -> Any:
    """detectron2's configuration with its defaults, and what `add_config` of the user's modules adds."""
    cfg = load_library().get_cfg()
    for module in import_modules(tuple(imports)):
        if hasattr(module, "add_config"):
            module.add_config(cfg)
    set_values(cfg, OUR_DEFAULTS)
    return cfg


def cfg_of(config: Section) -> Any:
    """A checked configuration as detectron2's."""
    values = config.model_dump(mode="json")
    cfg = default_cfg(values["DATASETS"]["IMPORT"])
    set_values(cfg, values)
    return cfg


def set_values(cfg: Any, values: Mapping[str, Any]) -> None:
    """Set checked values in a configuration of detectron2's; keys that it lacks are added."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            if not isinstance(cfg.get(key), Mapping):
                cfg[key] = type(cfg)()
            set_values(cfg[key], value)
        else:
            cfg[key] = tuple(value) if isinstance(cfg.get(key), tuple) and isinstance(value, list) else value


def complete(values: Mapping[str, Any], own: Iterable[str]) -> Completed:
    """All keys with their values, checked by detectron2; see `config.keys.Complete`."""
    datasets = values.get("DATASETS")
    imports = datasets.get("IMPORT", ()) if isinstance(datasets, Mapping) else ()
    are_names = isinstance(imports, list | tuple) and all(isinstance(name, str) for name in imports)
    cfg = default_cfg(imports if are_names else ())
    defaults, own = flatten(cfg), set(own)
    ours: dict[str, Any] = {}
    problems = []
    for key, value in flatten(values).items():
        if key in defaults:
            problem = _set_checked(cfg, key, value, defaults[key])
        elif key in own or key.startswith("DATASETS.REGISTER."):
            ours, problem = merge(ours, nest(key, value)), ""
        else:
            problem = unknown_engine_key(key, [*defaults, *own])
        if problem:
            problems.append((key, problem))
    return merge(_plain(cfg), ours), problems


def _set_checked(cfg: Any, key: str, value: Any, default: Any) -> str:
    """Set the value; the reason why it cannot be set, or empty."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    try:
        cfg.merge_from_other_cfg(type(cfg)(nest(key, value)))
    except Exception as error:  # detectron2's checks raise several kinds
        return f"detectron2 refuses it: {error}"
    if key in DEFAULT_ONLY and flatten(cfg)[key] != default:
        return f"detectron2 knows this key, but it is not honoured here: {foreign_advice(key)}"
    return ""


def _plain(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A copy as dictionaries and lists."""
    return {
        key: _plain(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        for key, value in cfg.items()
    }
