"""Which of Optuna's samplers chooses the next point."""

from __future__ import annotations

import heapq
import warnings
from collections.abc import Collection, Container, Sequence
from copy import copy
from typing import Any, get_args

import numpy as np
from optuna import Study, load_study
from optuna.distributions import BaseDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState

from raytune_m2f.study.search.axes import Axes
from raytune_m2f.study.search.choose import choose
from raytune_m2f.study.search.curves import curve_of, curves_of, estimated_end
from raytune_m2f.study.settings import Sampler

SAMPLERS: tuple[str, ...] = get_args(Sampler)
NEWEST, BEST = 400, 100
START_UP = 4
"""Random points before TPE and the Gaussian process choose: with ten, a short study is a random search."""
SEEN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
MOST_CURVES = 100
"""Trials up to which `auto` models their curves."""


def make_sampler(
    kind: str, seed: int, started: int, axes: Axes, max_iter: int, *, newest: int = NEWEST, best: int = BEST
) -> BaseSampler:
    """The sampler of one suggestion.

    It is made anew for each: what it suggests then depends on the seed, on how many trials were started before, and
    on the record, and not on how often the driver was restarted (one seed for a driver's life would suggest the
    first points a second time after a restart). This holds for all kinds:

    - `auto` learns from every report of every trial by a model of curves (`search/choose.py`), and from earlier
      studies; beyond `MOST_CURVES` trials, and with several metrics, it is `tpe`.
    - `tpe` learns from stopped trials too, by an estimate of what they would have reached, and keeps away from those
      that run (constant liar). In a long study it leaves old mediocre trials out, so that its time does not grow
      without end.
    - `gp` learns from stopped trials too, and keeps away from those that run (expected improvement of a batch). It
      takes about 0.2 s a suggestion. Conditional keys, and those whose range was changed, are drawn at random.
    - `cmaes` has its state in the record. It learns from stopped trials too, but only from those it suggested itself,
      not from the known-good points. It knows nothing of trials that run: with more of them at once than one
      generation has (8 for 4 keys) the others are wasted. Categorical and conditional keys are drawn at random. Optuna
      keeps its state as a pickle: go on only with a study directory that you trust.
    - `random` learns nothing.
    - `grid` has all points of `space_grid.grid` in the queue; its sampler has nothing left to choose.

    Args:
        kind: one of SAMPLERS.
        axes: of the search space.
        max_iter: iterations of a whole training.
        newest, best: trials that TPE learns from: so many that ended last, and of the older ones that ran to their end
            so many of the best.

    Raises:
        ValueError: there is no such sampler.
    """
    stream = int(np.random.SeedSequence([seed, started]).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)  # groups, and CMA-ES with stopped trials
        if kind == "tpe" or (kind == "auto" and started >= MOST_CURVES):
            options = {"n_startup_trials": START_UP, "multivariate": True, "group": True, "constant_liar": True}
            return _GroupTPE(newest, best, max_iter, seed=stream, **options)
        if kind == "auto":
            return _Auto(axes, max_iter, stream)
        if kind == "gp":
            return _StoppedGP(max_iter, seed=stream, n_startup_trials=START_UP, warn_independent_sampling=False)
        if kind == "cmaes":
            return _CmaEs(
                axes.space.conditional, seed=stream, warn_independent_sampling=False, consider_pruned_trials=True
            )
    if kind not in SAMPLERS:
        raise ValueError(f"got the sampler {kind!r}, allowed: {', '.join(SAMPLERS)}")
    return RandomSampler(seed=stream)


class _Auto(RandomSampler):
    """What `choose` says; keys that it leaves out are drawn at random."""

    def __init__(self, axes: Axes, max_iter: int, stream: int) -> None:
        super().__init__(seed=stream)
        self._axes, self._max_iter, self._stream = axes, max_iter, stream

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return {} if "fixed_params" in trial.system_attrs else self._axes.space.distributions

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        if not search_space:
            return {}
        others = [one for one in study.get_trials(deepcopy=False) if one.number != trial.number]
        return choose(self._axes, curves_of(others), self._max_iter, np.random.default_rng(self._stream))


class _GroupTPE(TPESampler):
    """TPE that draws the keys that occur together as one group, within their present ranges.

    Optuna's groups keep the first range of a key for good. A key whose range was changed is therefore drawn by
    itself.
    """

    def __init__(self, newest: int, best: int, max_iter: int, **options: Any) -> None:
        super().__init__(**options)
        self._newest, self._best, self._max_iter = newest, best, max_iter
        self._window: _Window | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        window = self._window_of(study, trial)
        inferred = super().infer_relative_search_space(window, trial)
        for other in window.get_trials(deepcopy=False):
            for name, distribution in other.distributions.items():
                if inferred.get(name) != distribution:
                    inferred.pop(name, None)
        return inferred

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return super().sample_relative(self._window_of(study, trial), trial, search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return super().sample_independent(self._window_of(study, trial), trial, param_name, param_distribution)

    def _window_of(self, study: Study, trial: FrozenTrial) -> _Window:
        """The same window for all values of a trial."""
        if self._window is None or self._window.asking != trial.number:
            self._window = _Window(study, trial.number, self._newest, self._best, self._max_iter)
        return self._window


class _Window(Study):
    """The study as TPE sees it: the trials that run, the `newest` that ended and, of the older ones, the `best`.

    TPE compares the best tenth, at most 25 trials, with the rest, and weighs old trials less: those that are left out
    hardly matter to it. A stopped trial it would put behind all that ran to their ends, however good it was, and one
    that waits at a rung it would not count at all: both are shown as if they had gone on, with an estimate of their
    end.
    """

    def __init__(self, study: Study, asking: int, newest: int, best: int, max_iter: int) -> None:
        vars(self).update(vars(study))
        self.asking = asking
        trials = study.get_trials(deepcopy=False)
        ended = [trial for trial in trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        complete = [trial for trial in ended[:-newest] if trial.state == TrialState.COMPLETE]
        chosen = {trial.number for trial in (*heapq.nlargest(best, complete, key=_merit), *ended[-newest:])}
        seen = [trial for trial in trials if trial.number in chosen or trial.state == TrialState.RUNNING]
        self._chosen = seen if len(study.directions) > 1 else _at_their_ends(seen, max_iter)

    def _get_trials(
        self, deepcopy: bool = True, states: Container[TrialState] | None = None, use_cache: bool = False
    ) -> list[FrozenTrial]:
        return [trial for trial in self._chosen if states is None or trial.state in states]


def _at_their_ends(trials: Sequence[FrozenTrial], max_iter: int) -> list[FrozenTrial]:
    """The same trials; those with a report as complete, with the score that they are expected to end at."""
    curves = {trial.number: curve_of(trial) for trial in trials if trial.intermediate_values}
    whole = [curve for curve in curves.values() if curve.last >= max_iter]
    found = []
    for trial in trials:
        if trial.number in curves and trial.state in SEEN:
            trial = copy(trial)
            trial.state, trial.values = TrialState.COMPLETE, [estimated_end(curves[trial.number], whole, max_iter)]
        found.append(trial)
    return found


def _merit(trial: FrozenTrial) -> tuple[bool, float]:
    """In the order of TPE: what keeps the constraints, then the first metric."""
    return all(violation <= 0 for violation in trial.constraints.values()), trial.values[0]


class _CmaEs(CmaEsSampler):
    """CMA-ES over the keys that every trial has: its state has one dimension for each, and must not change."""

    def __init__(self, conditional: Collection[str], **options: Any) -> None:
        super().__init__(**options)
        self._conditional = frozenset(conditional)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        inferred = super().infer_relative_search_space(study, trial)
        return {name: distribution for name, distribution in inferred.items() if name not in self._conditional}


class _StoppedGP(GPSampler):
    """A Gaussian process that learns from stopped and waiting trials too; Optuna's takes those that ran to their end.

    With early stopping most trials are stopped: a short study would draw at random to its end.
    """

    def __init__(self, max_iter: int, **options: Any) -> None:
        super().__init__(**options)
        self._max_iter = max_iter

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return super().infer_relative_search_space(self._as_ended(study, trial), trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        copied = self._as_ended(study, trial)
        return super().sample_relative(copied, copied.get_trials(deepcopy=False)[trial.number], search_space)

    def _as_ended(self, study: Study, asking: FrozenTrial) -> Study:
        """A copy of the study, in memory; the trial that asks does not count as one that runs."""
        storage = InMemoryStorage()
        study_id = storage.create_new_study([study.direction], "copy")
        for trial in _at_their_ends(study.get_trials(), self._max_iter):
            if trial.number == asking.number:
                trial.state = TrialState.WAITING
            storage.create_new_trial(study_id, template_trial=trial)
        return load_study(study_name="copy", storage=storage)
