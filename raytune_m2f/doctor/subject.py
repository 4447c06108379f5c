"""What is examined: a configuration, its data, its network, what they are to be used for; each built once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch

from raytune_m2f.config import Config
from raytune_m2f.data import CocoDataset, DataSummary
from raytune_m2f.doctor.excerpt import Excerpt, excerpt_of
from raytune_m2f.engines import Engine, build_engine
from raytune_m2f.engines.datasets import DatasetEngine, Datasets
from raytune_m2f.learner.base import Learner
from raytune_m2f.study.settings import Budget
from raytune_m2f.study.space import SearchSpace

Made = TypeVar("Made")


@dataclass
class Subject:
    """A configuration under examination. Attributes are not changed after the first check.

    Args:
        config: the configuration.
        space: the search space of the study to come; None: there is none to speak of.
        budget: of the study to come; None: what one trial costs is told, and of twenty.
        workers: Ray Train workers of a trial.
        device: where the network is examined.
        seconds: how long the checks that train may take, all together.
    """

    config: Config
    space: SearchSpace | None = None
    budget: Budget | None = None
    workers: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seconds: float = 120.0
    _made: dict[Callable[[Subject], Any], Any] = field(default_factory=dict, init=False, repr=False)

    def once(self, make: Callable[[Subject], Made]) -> Made:
        """What `make` makes of this subject: made when it is first asked for, and kept for the other checks."""
        if make not in self._made:
            self._made[make] = make(self)
        made: Made = self._made[make]
        return made

    @cached_property
    def engine(self) -> Engine[Any, Any, Any]:
        """Raises InputError, as `build_engine` does: configuration or data are wrong."""
        return build_engine(self.config)

    @property
    def summary(self) -> DataSummary:
        """What was read, in numbers."""
        return self.engine.summary

    @property
    def datasets(self) -> Datasets | None:
        """The checked annotations; None of an engine that has none to show."""
        return self.engine.datasets if isinstance(self.engine, DatasetEngine) else None

    @property
    def parts(self) -> Sequence[tuple[str, CocoDataset]]:
        """("train", ...) and ("test", ...), as far as the engine has them; several training files are one."""
        if self.datasets is None:
            return ()
        return (("train", self.datasets.train), ("test", self.datasets.test))

    @property
    def files(self) -> list[tuple[str, Path]]:
        """("train" or "test", annotation file) of every data set that is registered with one."""
        named = [("train", name) for name in self.config.DATASETS.TRAIN]
        named += [("test", name) for name in self.config.DATASETS.TEST[:1]]
        register = self.config.DATASETS.REGISTER
        return [(role, Path(register[name].annotations)) for role, name in named if name in register]

    @cached_property
    def excerpt(self) -> Excerpt | None:
        """Windows of training images for the checks of the network; None if the samples are not our network's."""
        return excerpt_of(self.engine, self.config, self.device)

    @cached_property
    def learner(self) -> Learner[Any, Any, Any]:
        """A network with the first weights of a training (MODEL.WEIGHTS loaded), and what it learns by, on `device`.

        Checks that change weights take a `fresh_learner`.
        """
        return self.fresh_learner()

    def fresh_learner(self) -> Learner[Any, Any, Any]:
        """As a training of this configuration begins. Raises ModelError if MODEL.WEIGHTS has none."""
        torch.manual_seed(self.config.SEED)
        learner = self.engine.learner()
        learner.model.to(self.device)
        if self.config.MODEL.WEIGHTS:
            with _quiet("raytune_m2f.learner"):  # model/weights says what was loaded
                learner.load_weights(self.config.MODEL.WEIGHTS)
        return learner


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Let a logger pass warnings only."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(max(logging.WARNING, logger.getEffectiveLevel()))
    try:
        yield
    finally:
        logger.setLevel(before)
