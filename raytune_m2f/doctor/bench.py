"""Our network on the windows of an `Excerpt`: what it predicts of them, and what its loss makes of that."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torchvision.ops import StochasticDepth

from raytune_m2f.config import Config
from raytune_m2f.data import TestSample
from raytune_m2f.data.masks import Rle
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.doctor.subject import Subject
from raytune_m2f.errors import InputError
from raytune_m2f.learner.base import Learner, Terms
from raytune_m2f.learner.mask_former import MaskFormerLearner
from raytune_m2f.learner.weight_files import read_state_dict
from raytune_m2f.learner.weights import network_names
from raytune_m2f.model import (
    MAIN,
    LossWeights,
    MultiTaskMaskFormer,
    NonFiniteError,
    Outputs,
    PackedInstances,
    RandomPoints,
    SetCriterion,
    Target,
    pad_masks,
    padded_size,
)
from raytune_m2f.model.structures import TargetBatch

Found = PackedInstances[Rle]

CODE = "The network's code is at fault, not the data:"
"""How the remedy of what only a changed network can have begins."""


def check_network(name: str, asks: str) -> Callable[[Callable[[Check, Bench], Iterator[Finding]]], Check]:
    """A check of our network; skipped, with the reason, where there is another one or nothing to show it."""

    def made(look: Callable[[Check, Bench], Iterator[Finding]]) -> Check:
        def looked(subject: Subject) -> Iterator[Finding]:
            problem = why_no_bench(subject)
            if problem:
                yield check.skipped(problem)
                return
            try:
                yield from look(check, Bench(subject))
            except NonFiniteError:
                yield check.skipped("the predictions are NaN or infinite: see model/finite")

        check = Check(name, asks, looked, needs="learner")
        return check

    return made


def why_no_bench(subject: Subject) -> str:
    """Why the network cannot be looked at; empty if it can."""
    if not isinstance(subject.learner.model, MultiTaskMaskFormer) or not is_ours(subject.learner):
        return "not our network: what it must give and take is not known here"
    try:
        excerpt = subject.excerpt
    except InputError as error:  # said once, by the checks of the data
        return f"there are no training images to show to the network: {error}"
    if excerpt is None:
        return "the engine makes samples that are not our network's"
    return "" if excerpt.samples else f"no instance in the first {excerpt.looked_at} training images"


def is_ours(learner: object) -> bool:
    """Whether its matching and its losses can be called one by one."""
    return isinstance(getattr(learner, "criterion", None), SetCriterion)


class Bench:
    """A copy of the network as a training begins with it, and the windows that it is shown.

    A loss whose weight is 0 has 1 here: whether it would count is another question than whether it is asked for.

    The copy's statistics of batch norm, where it has any that learn, are those of the windows: with fresh ones a
    network from scratch does not predict anything in evaluation mode.

    Attributes:
        learner: with the copied network, and without sieves, tiles and suppression of duplicates in `predict`.
        heads: names of all classifiers, the main one (`MAIN`) first.
        images: those of the windows, and the first one mirrored: (3, side, side) uint8.
    """

    def __init__(self, subject: Subject, learner: Learner | None = None):
        """With another learner than the subject's, if one is given."""
        learner, excerpt = learner or subject.learner, subject.excerpt
        assert excerpt is not None
        self.subject, self.excerpt, self.device = subject, excerpt, subject.device
        self.learner = copy.copy(cast(MaskFormerLearner, learner))
        self.learner.model = copy.deepcopy(self.learner.model)
        self.learner.config = _without_sieves(subject.config)
        self.model = self.learner.model
        self.criterion = self.learner.criterion = _all_weighted(self.learner.criterion)
        self.heads = (MAIN, *subject.engine.categories.sizes)
        self.images = [*excerpt.images, excerpt.images[0].flip(-1)]
        self._take_statistics()

    @property
    def samples(self) -> Sequence[object]:
        """The windows with their instances."""
        return self.excerpt.samples

    @cached_property
    def targets(self) -> TargetBatch:
        """The instances of the windows, masks at the padded size."""
        return TargetBatch.of(self._targets())

    @cached_property
    def from_file(self) -> frozenset[str]:
        """Names of the tensors that have the values of MODEL.WEIGHTS. Raises ModelError if the file cannot be read."""
        source = self.subject.config.MODEL.WEIGHTS
        if not source:
            return frozenset()
        state = network_names(read_state_dict(source), self.model.backbone)
        own = self.subject.learner.model.state_dict()
        return frozenset(name for name in own if name in state and _is_same(own[name].cpu(), state[name]))

    def points(self) -> RandomPoints:
        """Where matching and loss look; the same at every call."""
        return RandomPoints([sample.seed for sample in self.excerpt.samples], self.device)

    def outputs(self, images: Sequence[Tensor] | None = None) -> Outputs:
        """What the network predicts in evaluation mode, of the windows if nothing else is given.

        Raises:
            NonFiniteError: something of it is NaN or infinite.
        """
        self.model.eval()
        return self._forward(self.excerpt.images if images is None else images)

    def training_outputs(self, *, steady: bool = False) -> Outputs:
        """What it predicts of the windows in training mode.

        Args:
            steady: layers that are meant to act otherwise in training (batch norm, stochastic depth, dropout) do not.

        Raises:
            NonFiniteError: something of it is NaN or infinite.
        """
        self.train(steady=steady)
        torch.manual_seed(self.subject.config.SEED)
        return self._forward(self.excerpt.images)

    def train(self, *, steady: bool = False) -> None:
        """As `training_outputs`."""
        self.model.train()
        for module in self.model.modules():
            if steady and isinstance(module, MODED):
                module.eval()

    @property
    def moded(self) -> list[str]:
        """Kinds of layers that act otherwise in training."""
        self.model.train()
        active = [m for m in self.model.modules() if isinstance(m, MODED) and m.training and not _is_steady(m)]
        return sorted({type(module).__name__ for module in active})

    def losses(self, outputs: Outputs) -> dict[str, Tensor]:
        """(L,) of every term, without its weight."""
        return self.criterion(outputs, self._targets(), self.points())

    def weighted_losses(self) -> tuple[Tensor, Terms, list[Outputs]]:
        """What a training step minimises, its terms, and the outputs that they are of, with their history."""
        made: list[Outputs] = []

        def forward(images: Sequence[Tensor]) -> Outputs:
            made.append(self.model(images))
            return made[-1]

        total, terms = self.learner.losses(
            forward, self.excerpt.samples, self.learner.count(self.excerpt.samples), nullcontext(), (0, 0, 0)
        )
        return total, terms, made

    @torch.no_grad()
    def predict(self, images: Sequence[Tensor]) -> list[Found]:
        """The instances of images, masks at the images' size."""
        self.model.eval()
        return list(self.learner.predict([_test_sample(image) for image in images]))

    @torch.no_grad()
    def _forward(self, images: Sequence[Tensor]) -> Outputs:
        with torch.backends.cudnn.flags(allow_tf32=False):
            outputs: Outputs = self.model(list(images))
        if bad := not_finite(outputs):
            raise NonFiniteError(", ".join(bad))
        return outputs

    def _targets(self) -> list[Target]:
        size = padded_size(self.excerpt.images, self.model.size_divisibility)
        targets = (sample.target for sample in self.excerpt.samples)
        return [replace(t, masks=pad_masks(t.masks, size)).to(self.device) for t in targets]

    @torch.no_grad()
    def _take_statistics(self) -> None:
        self.model.train()
        learning = [m for m in self.model.modules() if isinstance(m, _BatchNorm) and m.training and not _is_steady(m)]
        momenta = [module.momentum for module in learning]
        for module in learning:
            module.reset_running_stats()
            module.momentum = None  # of all that is seen
        if learning:
            self.model(self.excerpt.images)
        for module, momentum in zip(learning, momenta, strict=True):
            module.momentum = momentum
        self.model.eval()


def _is_same(own: Tensor, stored: Tensor) -> bool:
    """Whether a tensor is the stored one; queries may have been cut or grown."""
    rows = min(len(own), len(stored)) if own.ndim and stored.ndim else 1
    if own.shape[1:] != stored.shape[1:] or not rows:
        return False
    return torch.equal(*((x[:rows] if x.ndim else x).float() for x in (own, stored)))


MODED = (_BatchNorm, StochasticDepth, nn.Dropout)
"""Layers that are meant to act otherwise in training."""


def _is_steady(module: nn.Module) -> bool:
    """Whether such a layer is of a kind, or has numbers, with which it does not."""
    from raytune_m2f.model.backbones.base import FrozenStatsBatchNorm2d

    return isinstance(module, FrozenStatsBatchNorm2d) or getattr(module, "p", 1) == 0


def logits_of(outputs: Outputs) -> Mapping[str, Tensor]:
    """(L, B, Q, K + 1) of every classifier."""
    return {MAIN: outputs.pred_logits, **outputs.pred_sublogits}


def with_logits(outputs: Outputs, logits: Mapping[str, Tensor]) -> Outputs:
    """The same with other classifications."""
    others = {head: logits[head] for head in outputs.pred_sublogits}
    return replace(outputs, pred_logits=logits[MAIN], pred_sublogits=others)


def not_finite(outputs: Outputs) -> list[str]:
    """What of the outputs is NaN or infinite."""
    parts = {called(head): logits for head, logits in logits_of(outputs).items()}
    parts |= {"the mask embeddings": outputs.mask_embed, "the mask features": outputs.mask_features}
    return [name for name, values in parts.items() if not bool(values.isfinite().all())]


def called(head: str) -> str:
    """A head in a message."""
    return "the main head" if head == MAIN else f"head {head!r}"


def term_of(head: str) -> str:
    """The name of its loss."""
    return "loss_ce" if head == MAIN else f"loss_{head}"


def _all_weighted(criterion: SetCriterion) -> SetCriterion:
    """A copy in which every loss has a weight."""
    made = copy.copy(criterion)
    made.matcher = copy.copy(criterion.matcher)
    for part in (made, made.matcher):
        part.weights = LossWeights(**{name: weight or 1.0 for name, weight in asdict(part.weights).items()})
    return made


def _without_sieves(config: Config) -> Config:
    """Every pair of query and category may be an instance; the ranking stays."""
    former = config.MODEL.MASK_FORMER
    test = type(former.TEST)(RANKING=former.TEST.RANKING)
    model = config.MODEL.model_copy(update={"MASK_FORMER": former.model_copy(update={"TEST": test})})
    tiles = config.TEST.TILES.model_copy(update={"ENABLED": False})
    return config.model_copy(update={"MODEL": model, "TEST": config.TEST.model_copy(update={"TILES": tiles})})


def _test_sample(image: Tensor) -> TestSample:
    return TestSample(image, image_id=0, height=image.shape[1], width=image.shape[2], file=Path())
