"""The keys of any other network of detectron2's: what they are and what they allow, detectron2 itself says.

The engine is above the configuration, so it is asked by its name; this is the one place that does so.
"""

from __future__ import annotations

import importlib
import traceback
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from raytune_m2f.config.fields.base import Section
from raytune_m2f.config.keys import closest_key
from raytune_m2f.config.paths import import_modules
from raytune_m2f.config.yaml_file import flatten, merge, nest
from raytune_m2f.errors import ConfigError, InputError, MissingDependencyError

ENGINE = "raytune_m2f.engines.detectron2.library"

INSTALL = (
    "pip install --no-build-isolation "
    "'git+https://github.com/facebookresearch/detectron2.git@02b5c4e295e990042a714712c21dc79b731e8833'"
)
"""As docs/detectron2.md has it."""

CHANGED = {"SEED": 0, "DATALOADER.ASPECT_RATIO_GROUPING": False, "SOLVER.AMP.PRECISION": "float16"}
"""Defaults that are not detectron2's."""

NOT_HONOURED = {
    "OUTPUT_DIR": "give the folder on the command line: --output of train, --study of tune",
    "CUDNN_BENCHMARK": "remove it",
    "FLOAT32_PRECISION": "remove it; SOLVER.AMP chooses mixed precision",
    "VIS_PERIOD": "remove it; `raytune-m2f predict` draws predictions",
    "MODEL.DEVICE": "remove it; a GPU is used if there is one, and CUDA_VISIBLE_DEVICES= hides it",
    "MODEL.KEYPOINT_ON": "remove it; keypoints are not scored",
    "MODEL.LOAD_PROPOSALS": "remove it; proposals are not read from files",
    "SOLVER.REFERENCE_WORLD_SIZE": "set SOLVER.LR_SCALING and SOLVER.REFERENCE_BATCH",
    "DATALOADER.ASPECT_RATIO_GROUPING": "remove it; a batch must depend on its iteration alone",
    "TEST.AUG.ENABLED": "remove it; there is no test-time augmentation",
    "TEST.EXPECTED_RESULTS": "remove it; compare metrics.json yourself",
    "TEST.PRECISE_BN.ENABLED": "remove it; with small batches take GN or FrozenBN",
}
"""Keys that may have their default only, and what to do instead."""


def detectron2_engine() -> Any:
    """The module of the engine. Raises MissingDependencyError where detectron2 is not installed."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of detectron2 about what it uses
            return importlib.import_module(ENGINE)
    except ImportError as error:
        if error.name and error.name.startswith("raytune_m2f"):
            raise
        raise MissingDependencyError(
            f"ENGINE: detectron2 needs detectron2, which cannot be imported here ({error}). Install it: {INSTALL} "
            "(docs/detectron2.md has its known troubles), or tune our own network with ENGINE: native, which needs "
            "nothing but this package."
        ) from None


@contextmanager
def building(what: str) -> Iterator[None]:
    """Whatever is raised here, of many kinds and by detectron2 or a user's module, as one ConfigError."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:
        reason = str(error) or traceback.extract_tb(error.__traceback__)[-1].line  # a bare assert says nothing
        raise ConfigError(
            f"detectron2 cannot build {what} from this configuration: {type(error).__name__}: {reason}"
        ) from error


def default_keys(imports: Iterable[str]) -> Any:
    """detectron2's configuration with its defaults, and what `add_config` of the user's modules adds."""
    cfg = detectron2_engine().get_cfg()
    for module in import_modules(tuple(imports)):
        if hasattr(module, "add_config"):
            module.add_config(cfg)
    assign(cfg, _nested(CHANGED))
    return cfg


def cfg_node(config: Section) -> Any:
    """A checked configuration as detectron2's."""
    values = config.model_dump(mode="json")
    cfg = default_keys(values["DATASETS"]["IMPORT"])
    assign(cfg, values)
    return cfg


def complete(values: Mapping[str, Any], own: Iterable[str]) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """All keys with their values: detectron2's defaults, and above them `values`, checked by detectron2.

    Args:
        own: keys that are checked elsewhere.

    Returns:
        nested dictionaries, and (dotted key, problem) for each that was refused.
    """
    datasets = values.get("DATASETS")
    imports = datasets.get("IMPORT", ()) if isinstance(datasets, Mapping) else ()
    strings = isinstance(imports, list | tuple) and all(isinstance(name, str) for name in imports)
    cfg = default_keys(imports if strings else ())
    known, own = flatten(cfg), set(own)
    ours: dict[str, Any] = {}
    problems = []
    for key, value in flatten(values).items():
        if key in known:
            problem = _problem(cfg, key, value, known[key])
        elif key in own or key.startswith("DATASETS.REGISTER."):
            ours, problem = merge(ours, nest(key, value)), ""
        else:
            problem = unknown(key, [*known, *own])
        if problem:
            problems.append((key, problem))
    return merge(_plain(cfg), ours), problems


def _problem(cfg: Any, key: str, value: Any, default: Any) -> str:
    """Take the value; why it cannot be taken, or empty."""
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    try:
        cfg.merge_from_other_cfg(type(cfg)(nest(key, value)))
    except Exception as error:  # detectron2's checks raise several kinds
        return f"detectron2 refuses it: {error}"
    if key in NOT_HONOURED and flatten(cfg)[key] != default:
        return f"detectron2 knows this key, but it is not honoured here: {NOT_HONOURED[key]}"
    return ""


def unknown(key: str, known: Iterable[str]) -> str:
    """The message for a key that neither detectron2 nor a module of DATASETS.IMPORT has with a value."""
    known = list(known)
    if inside := next((one for one in known if one.startswith(f"{key}.")), None):
        return f"a section; name a key in it, such as {inside}"
    close = closest_key(key, known)
    return f"non-existent config key of detectron2{f'; did you mean {close}?' if close else ''}"


def assign(cfg: Any, values: Mapping[str, Any]) -> None:
    """Set checked values in a configuration of detectron2's; keys that it lacks are added."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            if not isinstance(cfg.get(key), Mapping):
                cfg[key] = type(cfg)()
            assign(cfg[key], value)
        else:
            cfg[key] = tuple(value) if isinstance(cfg.get(key), tuple) and isinstance(value, list) else value


def _plain(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """A copy as dictionaries and lists."""
    return {
        key: _plain(value) if isinstance(value, Mapping) else list(value) if isinstance(value, tuple) else value
        for key, value in cfg.items()
    }


def _nested(dotted: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in dotted.items():
        nested = merge(nested, nest(key, value))
    return nested
