"""From the network's outputs to instances (Mask2Former section 4.1, post-processing).

Shapes: Q queries, C categories, K kept instances, D mask channels, H W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from .masks import Edges, Frame, Size, edge_parts, mask_parts
from .structures import Instances, PackedInstances
from .transformer_decoder import Outputs

Ranking = Literal["main", "sum", "logits", "product"]
DropNoObject = Literal["none", "any", "all"]
T = TypeVar("T")
Pack = Callable[[Sequence[Edges], Size], Sequence[T]]
"""Some masks' edges, and the (height, width) of their image, to what is kept of each."""


@dataclass(frozen=True)
class Choice:
    """Which (query, category) pairs of an image may be instances, and by what they compete; by default Mask2Former's.

    A probability is one of a softmax over the classes and "no object". The subcategory heads' sieves drop nothing where
    there is no head.

    Attributes:
        ranking: see `ranking_scores`.
        class_threshold: of the pair's category, the least probability.
        subcategory_threshold: of the best class of every subcategory head, the least probability.
        drop_no_object: the queries of which "any" or "all" subcategory heads find "no object" likelier than every class
            are dropped.
        one_label: whether a query has its most probable category alone.
    """

    ranking: Ranking = "main"
    class_threshold: float = 0.0
    subcategory_threshold: float = 0.0
    drop_no_object: DropNoObject = "none"
    one_label: bool = False

    def passed(self, probs: Tensor, subprobs: Sequence[Tensor]) -> Tensor | None:
        """(Q, C) bool, the pairs that no sieve drops; None, without any work, where there is no sieve.

        Args:
            probs, subprobs: of `ranking_scores`.
        """
        if replace(self, ranking="main") == MASK2FORMER:
            return None
        classes = probs[:, :-1]
        passed = classes >= self.class_threshold
        if subprobs:
            best = torch.stack([p[:, :-1].amax(-1) for p in subprobs])  # (heads, Q)
            passed &= (best >= self.subcategory_threshold).all(0)[:, None]
            nothing = torch.stack([p[:, -1] for p in subprobs]) > best
            if self.drop_no_object != "none":
                passed &= ~(nothing.any(0) if self.drop_no_object == "any" else nothing.all(0))[:, None]
        if self.one_label:
            passed &= torch.zeros_like(passed).scatter_(1, classes.argmax(-1, keepdim=True), True)
        return passed


MASK2FORMER = Choice()


def instances_of_image(
    outputs: Outputs, image: int, frame: Frame, choice: Choice = MASK2FORMER, *, max_instances: int
) -> Instances:
    """Keep the best (query, category) pairs of an image and build their masks.

    Everything is read from the decoder's last output for this image and for the kept queries.

    Args:
        outputs: of the whole batch.
        image: which one of the batch.
        max_instances: TEST.DETECTIONS_PER_IMAGE; all pairs are kept if there are fewer.
    """
    pairs = _best_pairs(outputs, image, max_instances, choice)
    kept = pairs.queries.unique()
    parts = list(mask_parts(*_embedded(outputs, image, kept), frame)) if len(kept) else []
    quality = torch.cat([pairs.scores[:0], *(quality for _, quality in parts)])
    nothing = torch.zeros(0, *frame.original, dtype=torch.bool, device=quality.device)
    found, places = pairs.ranked(kept, quality)
    return Instances(masks=torch.cat([nothing, *(masks for masks, _ in parts)])[places], **found)


def packed_instances_of_image(
    outputs: Outputs, image: int, frame: Frame, choices: Sequence[Choice], *, max_instances: int, pack: Pack[T]
) -> list[PackedInstances[T]]:
    """`instances_of_image` for each of several choices. A query's mask is built once for all that keep it.

    The masks are never all in memory at once: `pack` makes of each some what is kept.
    """
    chosen = [_best_pairs(outputs, image, max_instances, choice) for choice in choices]
    kept = torch.cat([pairs.queries for pairs in chosen]).unique()
    packed: list[T] = []
    qualities = []
    for edges, quality in edge_parts(*_embedded(outputs, image, kept), frame) if len(kept) else ():
        packed += pack(edges, frame.original)
        qualities.append(quality)
    found = []
    for pairs in chosen:
        instances, places = pairs.ranked(kept, torch.cat([pairs.scores[:0], *qualities]))
        found.append(PackedInstances(masks=[packed[place] for place in places], **instances))
    return found


@dataclass(frozen=True)
class _Pairs:
    """The best (query, category) pairs of an image, K of them, not in order.

    Attributes:
        scores: (K,).
        labels, queries: (K,).
        subprobs: of all queries.
    """

    scores: Tensor
    labels: Tensor
    queries: Tensor
    subprobs: dict[str, Tensor]

    def ranked(self, kept: Tensor, quality: Tensor) -> tuple[dict[str, Any], list[int]]:
        """All of `Instances` but the masks, best first, and the place of each one's query in `kept`.

        Args:
            kept: (M,) different queries in ascending order, these among them.
            quality: (M,), of their masks.
        """
        places = torch.searchsorted(kept, self.queries)
        final = self.scores * quality[places]
        order = final.argsort(descending=True, stable=True)
        queries = self.queries[order]
        subprobs = {name: probs[queries] for name, probs in self.subprobs.items()}
        found = {"scores": final[order], "labels": self.labels[order], "queries": queries, "subprobs": subprobs}
        return found, places[order].tolist()


def _best_pairs(outputs: Outputs, image: int, max_instances: int, choice: Choice) -> _Pairs:
    probs = outputs.pred_logits[-1, image].float().softmax(-1)
    subprobs = {name: head[-1, image].float().softmax(-1) for name, head in outputs.pred_sublogits.items()}
    scores = ranking_scores(probs, list(subprobs.values()), choice.ranking)  # (Q, C)
    passed = choice.passed(probs, list(subprobs.values()))
    if outputs.distinct is not None:  # they come first: the others' numbers stay
        distinct = outputs.distinct[image]
        scores, passed = scores[distinct], None if passed is None else passed[distinct]
    if passed is None:
        best, index = scores.flatten().topk(min(max_instances, scores.numel()), sorted=False)
    else:
        places = passed.flatten().nonzero()[:, 0]
        best, order = scores.flatten()[places].topk(min(max_instances, len(places)), sorted=False)
        index = places[order]
    labels, queries = index % scores.shape[1], index // scores.shape[1]
    return _Pairs(best, labels, queries, {name: p[:, :-1] for name, p in subprobs.items()})


def _embedded(outputs: Outputs, image: int, queries: Tensor) -> tuple[Tensor, Tensor]:
    """Of an image, the mask embeddings (K, D) of these queries, and the mask features (D, h, w)."""
    return outputs.mask_embed[-1, image, queries].float(), outputs.mask_features[image].float()


def ranking_scores(probs: Tensor, subprobs: Sequence[Tensor], ranking: Ranking) -> Tensor:
    """(Q, C): by what instances compete, in [0, 1]; without a subcategory head it is p in every ranking.

    With p the main category's probability, p_k the highest of head k (of K heads), and logit(p) = log(p / (1 - p)):

        main      p, as in Mask2Former
        sum       (p + p_1 + ... + p_K) / (1 + K)
        logits    sigmoid((logit(p) + logit(p_1) + ... + logit(p_K)) / (1 + K))
        product   p p_1 ... p_K, the sum of the logarithms

    A classifier's own outputs are no choice for `logits`: the softmax, and so the loss, does not change if a number is
    added to all outputs of a query, hence their size says nothing and differs from query to query. logit(p) is such an
    output less the log-sum-exp of the others; its mean is the logarithmic opinion pool (Genest & Zidek 1986).

    Args:
        probs: (Q, C + 1), the main categories' probabilities, that of "no object" the last.
        subprobs: (Q, C_k + 1) of every subcategory head.
    """
    classes = probs[:, :-1]
    if ranking == "main" or not subprobs:
        return classes
    if ranking == "logits":
        classes, subprobs = _logits(probs)[:, :-1], [_logits(p) for p in subprobs]
    best = torch.stack([p[:, :-1].amax(-1) for p in subprobs])[:, :, None]  # (heads, Q, 1)
    if ranking == "product":
        return classes * best.prod(0)
    mean = (classes + best.sum(0)) / (1 + len(best))
    return mean.sigmoid() if ranking == "logits" else mean


def _logits(probs: Tensor) -> Tensor:
    """log(p / (1 - p)) of the rows of a softmax; 1 - p of the largest is the sum of the others, which loses nothing."""
    largest = probs.argmax(-1, keepdim=True)
    rest = (1 - probs).scatter(-1, largest, probs.scatter(-1, largest, 0).sum(-1, keepdim=True))
    least = torch.finfo(probs.dtype).tiny
    return probs.clamp(min=least).log() - rest.clamp(min=least).log()
