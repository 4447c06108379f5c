"""What is watched of every head while a network trains, at the price of a few small sums in one step of some.

Of the last output's matched queries, which are those that learn from an instance: a head that says "no object" of all
of them, or one class of all of them, or that gets no gradient, learns nothing, and its loss alone does not show it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from raytune_m2f.model import MAIN, UNKNOWN
from raytune_m2f.model.matcher import Matches
from raytune_m2f.model.structures import TargetBatch
from raytune_m2f.model.transformer_decoder import Outputs

EVERY = 5
"""Iterations from one step that is watched to the next."""
GROUP = "vitals"
OF_HEAD = ("right", "entropy", "no_object", "largest", "majority", "gradient")
OF_ALL = ("unmatched", "no_object")


def vital_keys(heads: Iterable[str]) -> list[str]:
    """The entries of a report that are vitals of a network with these subcategory heads."""
    own = [f"{GROUP}/{head}/{name}" for head in (MAIN, *heads) for name in OF_HEAD]
    return own + [f"{GROUP}/{name}" for name in OF_ALL]


class Vitals:
    """Sums since the last report; `report` says what they are.

    What a step sees (`observe`, `take`) may be added up over micro-batches and workers before it is kept (`add`).

    Args:
        classifiers: of the main category (`MAIN`) and of each subcategory head, in order.

    Attributes:
        awake: whether what is shown to `observe` is looked at.
    """

    def __init__(self, classifiers: Mapping[str, nn.Linear]):
        self.awake = False
        self._classifiers = dict(classifiers)
        self.classes = {head: layer.out_features - 1 for head, layer in classifiers.items()}
        sizes = [3 + (count + 1) + count for count in self.classes.values()]
        self._ends = list(accumulate([*sizes, 2 * len(OF_ALL)]))
        self._seen: list[Tensor] = []
        self._reset()

    def _reset(self) -> None:
        self.sums = torch.zeros(self._ends[-1], dtype=torch.float64)
        self.steps = 0
        self.shares = dict.fromkeys(self.classes, 0.0)

    @torch.no_grad()
    def observe(self, outputs: Outputs, matches: Matches, batch: TargetBatch) -> None:
        """See what a micro-batch's last output says of the matched queries; nothing waits for the device."""
        if not self.awake:
            return
        images, queries, instances = matches.images[0], matches.queries[-1], matches.instances[-1]
        labels = {MAIN: batch.labels, **batch.sublabels}
        logits = {MAIN: outputs.pred_logits, **outputs.pred_sublogits}
        parts = [_head_sums(logits[head][-1, images, queries], labels[head][instances]) for head in self.classes]
        says_none = outputs.pred_logits[-1].argmax(-1) == self.classes[MAIN]  # (B, Q)
        real = torch.ones_like(says_none) if outputs.distinct is None else outputs.distinct
        total = sum(batch.sizes)
        unmatched = total - real[images, queries].sum()  # a query that repeats another stands for nothing
        parts.append(torch.stack([unmatched, unmatched.new_tensor(total), (says_none & real).sum(), real.sum()]))
        self._seen.append(torch.cat([part.float() for part in parts]))

    def take(self) -> Tensor | None:
        """(V,) float32: the sums of this worker's micro-batches since it was asked last; None if none was seen."""
        seen, self._seen = self._seen, []
        return torch.stack(seen).sum(0) if seen else None

    def add(self, sums: Tensor) -> None:
        """Keep what the micro-batches of all workers have seen in a step."""
        self.sums += sums.double()

    @torch.no_grad()
    def add_gradients(self, whole: Tensor) -> None:
        """Note each head's share in the gradient of a step, before it is clipped.

        Args:
            whole: the norm of the whole gradient.
        """
        norms = [_norm(layer, whole) for layer in self._classifiers.values()]
        *own, all_of_it = torch.stack([*norms, whole]).tolist()
        if math.isfinite(all_of_it):  # in half precision a step may overflow, and is left out
            self.steps += 1
            for head, norm in zip(self.classes, own, strict=True):
                self.shares[head] += norm / max(all_of_it, 1e-30)

    def report(self) -> dict[str, float]:
        """The means since the last report [%], with which the next sums begin; what has no instance is left out.

        Of each head `vitals/<head>/`, of the matched queries with a known label: `right` (the label is predicted),
        `entropy` (of the prediction, as a share of the largest possible), `no_object` (predicted), `largest` (share of
        the class that is predicted most), `majority` (share of the most frequent label), and `gradient` (norm of its
        classifier's gradient as a share of the whole). `vitals/unmatched`: instances without a query of their own;
        `vitals/no_object`: of all queries.
        """
        found: dict[str, float] = {}
        start = 0
        for (head, count), end in zip(self.classes.items(), self._ends, strict=False):
            known, right, entropy, *counts = self.sums[start:end].tolist()
            start = end
            predicted, truth = counts[: count + 1], counts[count + 1 :]
            of_known = (right, entropy, predicted[-1], max(predicted[:-1]), max(truth))
            for name, value in zip(OF_HEAD, of_known, strict=False):
                found[f"{GROUP}/{head}/{name}"] = _percent(value, known)
            found[f"{GROUP}/{head}/gradient"] = _percent(self.shares[head], self.steps)
        unmatched, instances, none, queries = self.sums[start:].tolist()
        found |= {f"{GROUP}/unmatched": _percent(unmatched, instances), f"{GROUP}/no_object": _percent(none, queries)}
        self._reset()
        return {name: value for name, value in found.items() if math.isfinite(value)}

    def state(self) -> dict[str, Any]:
        """For a checkpoint; plain values."""
        return {"sums": self.sums.tolist(), "steps": self.steps, "shares": dict(self.shares)}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """What `state` gave; None, of an earlier checkpoint, begins anew."""
        self._reset()
        if state is not None:
            self.sums = torch.tensor(state["sums"], dtype=torch.float64)
            self.steps, self.shares = state["steps"], dict(state["shares"])


def _head_sums(logits: Tensor, labels: Tensor) -> Tensor:
    """(M, K + 1), (M,) to (3 + K + 1 + K,): known labels, right ones, entropy, predictions and labels by class."""
    known = labels != UNKNOWN
    log_p = logits.float().log_softmax(-1)
    entropy = -(log_p.exp() * log_p).sum(-1) / math.log(logits.shape[-1])
    classes = torch.arange(logits.shape[-1], device=logits.device)
    predicted = logits.argmax(-1)
    counts = (predicted[:, None] == classes) & known[:, None]
    truth = labels[:, None] == classes[:-1]
    facts = torch.stack((known, (predicted == labels) & known, known * entropy))
    return torch.cat((facts.sum(1), counts.sum(0), truth.sum(0)))


def _norm(module: nn.Module, like: Tensor) -> Tensor:
    """Of a module's gradient; 0 where it has none."""
    gradients = [p.grad.float().norm() for p in module.parameters() if p.grad is not None]
    return torch.stack(gradients).norm() if gradients else torch.zeros_like(like)


def _percent(part: float, whole: float) -> float:
    return round(100 * part / whole, 4) if whole else math.nan
