"""Tune a multitask Mask2Former with Ray Tune and Optuna.

    import raytune_m2f as rm

    study = rm.tune("demo.yaml", "demo", "studies/x", trials=8)
    model = study.export("models/x")
    model.predict("image.jpg")

A name is imported when it is first used, so that this import takes no time; they live in the folder api/, which the
commands call as well. The files beside the folders:

export.py        an exported model: written from a checkpoint, loaded
export_files.py  the files of an export, and whether somebody has changed them
export_card.py   its model card
export_check.py  an export is evaluated again in a fresh process, before it counts as done
rankings.py      rankings and sieves of an exported model side by side
scores.py        what an evaluation says: metrics with their intervals, heads, another model beside this one
progress.py      how far long work is, and for how long still
errors.py        every error that is raised on purpose
notes.py         what is worth telling the user, in the same words everywhere
testing.py       a conformance suite for an engine of your own
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    # isort: off
    from raytune_m2f.api.examination import diagnose as diagnose
    from raytune_m2f.api.models import Instance as Instance, Label as Label, LoadedModel as LoadedModel
    from raytune_m2f.api.models import Prediction as Prediction, export_model as export_model, load_model as load_model
    from raytune_m2f.api.projects import init as init
    from raytune_m2f.api.studies import Study as Study, resume as resume, tune as tune, tune_with as tune_with
    from raytune_m2f.api.training import train as train
    from raytune_m2f.config import Config as Config, load_config as load_config
    from raytune_m2f.study.settings import Budget as Budget, EarlyStopping as EarlyStopping, Resources as Resources
    from raytune_m2f.study.settings import StudySettings as StudySettings
    from raytune_m2f.study.space import SearchSpace as SearchSpace, load_space as load_space
    # isort: on

__version__ = "0.1.0"
_HOMES = {
    "api.examination": ("diagnose",),
    "api.models": ("Instance", "Label", "LoadedModel", "Prediction", "export_model", "load_model"),
    "api.projects": ("init",),
    "api.studies": ("Study", "resume", "tune", "tune_with"),
    "api.training": ("train",),
    "config": ("Config", "load_config"),
    "study.settings": ("Budget", "EarlyStopping", "Resources", "StudySettings"),
    "study.space": ("SearchSpace", "load_space"),
}
"""The module of each name."""
__all__ = [name for names in _HOMES.values() for name in names]

if not TYPE_CHECKING:  # else every name, also one that is not there, would be known to a type checker

    def __getattr__(name: str) -> Any:
        for home, names in _HOMES.items():
            if name in names:
                value = globals()[name] = getattr(import_module(f"{__name__}.{home}"), name)
                return value
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
