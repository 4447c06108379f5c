"""Tune a multitask Mask2Former with Ray Tune and Optuna.

    import raytune_m2f as rm

    study = rm.tune("demo.yaml", "demo", "studies/x", trials=8)
    model = study.export("models/x")
    model.predict("image.jpg")

A name is imported when it is first used, so that this import takes no time. The files, below the folders config, data,
model, evaluation, visualize, learner, engines, training, study, launch, drive, storage, cluster and cli:

api.py           train, tune, resume, Study, export_model: what the commands call, and a notebook
loaded_model.py  load_model: an exported model that predicts by name
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
    from raytune_m2f.api import Study, export_model, resume, train, tune, tune_with
    from raytune_m2f.config import Config, load_config
    from raytune_m2f.loaded_model import Instance, Label, LoadedModel, Prediction, load_model
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
    "api": ("Study", "export_model", "resume", "train", "tune", "tune_with"),
    "config": ("Config", "load_config"),
    "loaded_model": ("Instance", "Label", "LoadedModel", "Prediction", "load_model"),
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
