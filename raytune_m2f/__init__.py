"""Tune a multitask Mask2Former with Ray Tune and Optuna.

    import raytune_m2f as rm

    study = rm.tune("demo.yaml", "demo", "studies/x", trials=8)
    model = study.export("models/x")
    model.predict("image.jpg")

A name is imported when it is first used, so that this import takes no time; they live in the folder api/, which the
commands call as well. The files beside the folders:

export.py        an exported model: written from a checkpoint, loaded
export_files.py  the files of an export, and whether somebody has changed them
predict.py       image files and data sets through an exported model
progress.py      how far long work is, and for how long still
errors.py        every error that is raised on purpose
testing.py       a conformance suite for an engine of your own
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from raytune_m2f.api.models import Instance, Label, LoadedModel, Prediction, export_model, load_model
    from raytune_m2f.api.studies import Study, resume, tune, tune_with
    from raytune_m2f.api.training import train
    from raytune_m2f.config import Config, load_config
    from raytune_m2f.study.settings import Budget, EarlyStopping, Resources, StudySettings
    from raytune_m2f.study.space import SearchSpace, load_space

__version__ = "0.1.0"
__all__ = [
    "Budget",
    "Config",
    "EarlyStopping",
    "Instance",
    "Label",
    "LoadedModel",
    "Prediction",
    "Resources",
    "SearchSpace",
    "Study",
    "StudySettings",
    "export_model",
    "load_config",
    "load_model",
    "load_space",
    "resume",
    "train",
    "tune",
    "tune_with",
]
_HOMES = {
    "api.models": ("Instance", "Label", "LoadedModel", "Prediction", "export_model", "load_model"),
    "api.studies": ("Study", "resume", "tune", "tune_with"),
    "api.training": ("train",),
    "config": ("Config", "load_config"),
    "study.settings": ("Budget", "EarlyStopping", "Resources", "StudySettings"),
    "study.space": ("SearchSpace", "load_space"),
}
"""The module of each name."""

if not TYPE_CHECKING:  # else every name, also one that is not there, would be known to a type checker

    def __getattr__(name: str) -> Any:
        for home, names in _HOMES.items():
            if name in names:
                value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
