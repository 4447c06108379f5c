"""What the samplers share: the next point depends on the seed, the trials started and the record; and they learn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from raytune_m2f.study.record.samplers import SAMPLERS, make_sampler
from raytune_m2f.study.search.axes import Axes
from raytune_m2f.study.space import SearchSpace

RANGES: dict[str, BaseDistribution] = {
    "rate": FloatDistribution(1e-6, 1e-2, log=True),
    "share": FloatDistribution(0.0, 1.0),
    "queries": IntDistribution(20, 300, step=10),
}
CHOICE = {"schedule": CategoricalDistribution(["steps", "poly"])}
LINES = {
    "rate": {"type": "loguniform", "low": 1e-6, "high": 1e-2},
    "share": {"type": "uniform", "low": 0.0, "high": 1.0},
    "queries": {"type": "int", "low": 20, "high": 300, "step": 10},
}
CONDITIONAL = {
    "schedule": {"type": "categorical", "choices": ["steps", "poly"]},
    "power": {"type": "uniform", "low": 0.5, "high": 2.0, "when": {"schedule": "poly"}},
}
AXES = Axes.of(SearchSpace.from_dict(LINES), {})
WITH_POWER = Axes.of(SearchSpace.from_dict({**LINES, **CONDITIONAL}), {})


def value_of(params: dict[str, Any]) -> float:
    """A bowl with its top, 0, near the middle of the ranges."""
    offsets = (math.log10(params["rate"]) / 4 + 0.9, params["share"] - 0.3, params["queries"] / 280 - 0.4)
    return -sum(offset**2 for offset in offsets)


def run(
    kind: str, trials: int, storage: BaseStorage | None = None, *, conditional: bool = False, reopen: bool = False
) -> list[dict[str, Any]]:
    """The points of a study of two trials at once, every fourth one stopped early; `reopen` is a restart each time."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = storage or InMemoryStorage()
    study = optuna.create_study(storage=storage, study_name="s", direction="maximize")
    for number in range(trials):
        if reopen:
            study = optuna.load_study(study_name="s", storage=storage)
        study.sampler = make_sampler(kind, 1, number, WITH_POWER if conditional else AXES, 1)
        trial = study.ask({**RANGES, **(CHOICE if conditional else {})})
        if trial.params.get("schedule") == "poly":
            trial.suggest_float("power", 0.5, 2.0)
        if number:
            _tell(study, number - 1, TrialState.PRUNED if number % 4 == 0 else TrialState.COMPLETE)
    return [trial.params for trial in study.get_trials()]


def _tell(study: optuna.Study, number: int, state: TrialState) -> None:
    trial = study.get_trials(deepcopy=False)[number]
    study._storage.set_trial_intermediate_value(trial._trial_id, 1, value_of(trial.params))
    study._storage.set_trial_state_values(trial._trial_id, state, [value_of(trial.params)])


@pytest.mark.parametrize("kind", SAMPLERS)
def test_a_restart_changes_nothing(kind: str, tmp_path: Path) -> None:
    journal = JournalStorage(JournalFileBackend(str(tmp_path / "optuna.journal")))
    trials = 8 if kind in ("auto", "gp") else 20
    points = run(kind, trials, journal, conditional=True, reopen=True)
    assert points == run(kind, trials, conditional=True)
    assert len({str(point) for point in points}) == trials
    assert all(("power" in point) == (point["schedule"] == "poly") for point in points)


@pytest.mark.parametrize("kind", ["auto", "tpe", "gp", "cmaes"])
def test_it_learns(kind: str) -> None:
    """Its later half is better than a random one, by the median."""
    trials = 24 if kind in ("auto", "gp") else 40
    learned, drawn = (sorted(map(value_of, run(k, trials)[trials // 2 :])) for k in (kind, "random"))
    assert learned[len(learned) // 2] > drawn[len(drawn) // 2] / 2


def test_gp_learns_from_stopped_trials() -> None:
    """Optuna's own would draw at random until enough trials ran to their end."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    studies = {kind: optuna.create_study(direction="maximize") for kind in ("gp", "random")}
    for number in range(8):
        for kind, study in studies.items():
            study.sampler = make_sampler(kind, 1, number, AXES, 1)
            study.ask(RANGES)
            _tell(study, number, TrialState.PRUNED if number else TrialState.COMPLETE)
    learned, drawn = ([trial.params for trial in study.get_trials()] for study in studies.values())
    assert learned[:4] == drawn[:4]
    assert all(point not in drawn for point in learned[4:])
    states = [trial.state for trial in studies["gp"].get_trials(deepcopy=False)]
    assert states.count(TrialState.PRUNED) == 7, "the record itself is left alone"


def test_cmaes_keeps_its_state_where_a_key_is_conditional() -> None:
    """Its dimensions must not change, or it would draw at random from then on."""
    storage = InMemoryStorage()
    run("cmaes", 30, storage, conditional=True)
    attributes = [trial.system_attrs for trial in storage.get_all_trials(0)]
    assert max(attribute.get("cma:generation", 0) for attribute in attributes) >= 2
    assert "cma:generation" in attributes[-1]


@pytest.mark.parametrize("conditional", [False, True])
def test_tpe_reaches_a_range_that_was_widened(conditional: bool) -> None:
    """Optuna's groups alone would keep the first range."""
    storage = InMemoryStorage()
    run("tpe", 20, storage, conditional=conditional)
    study = optuna.load_study(study_name="s", storage=storage)
    wide = {**RANGES, "share": FloatDistribution(0.0, 5.0)}
    shares = []
    for number in range(20, 40):
        study.sampler = make_sampler("tpe", 1, number, WITH_POWER if conditional else AXES, 1)
        trial = study.ask(wide)
        shares.append(trial.params["share"])
        study.tell(trial, trial.params["share"])
    assert max(shares) > 4.0


def test_tpe_learns_from_the_newest_and_the_best_of_a_long_study() -> None:
    """What is left out changes nothing: a study without those trials is given the same point."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = InMemoryStorage()
    run("tpe", 40, storage)
    whole = optuna.load_study(study_name="s", storage=storage)
    ended = [trial for trial in whole.get_trials() if trial.state.is_finished()]
    complete = [trial for trial in ended[:-12] if trial.state == TrialState.COMPLETE]
    best = sorted(complete, key=lambda trial: -(trial.value or 0.0))[:6]
    chosen = {trial.number for trial in (*best, *ended[-12:])}
    part = optuna.create_study(direction="maximize")
    part.add_trials([t for t in whole.get_trials() if t.number in chosen or t.state == TrialState.RUNNING])
    points = []
    for study in (whole, part):
        study.sampler = make_sampler("tpe", 1, 40, AXES, 1, newest=12, best=6)
        points.append(study.ask(RANGES).params)
    assert len(chosen) == 18
    assert points[0] == points[1]


def test_an_unknown_sampler_is_refused() -> None:
    with pytest.raises(ValueError, match="got the sampler 'bohb', allowed: auto, tpe, gp, cmaes, random, grid"):
        make_sampler("bohb", 0, 0, AXES, 1)
