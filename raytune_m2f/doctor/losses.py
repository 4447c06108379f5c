"""Matching and loss: whether every head counts in both, and whether a query without an instance is "no object"."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from raytune_m2f.doctor.bench import CODE, Bench, called, check_network, logits_of, term_of, with_logits
from raytune_m2f.doctor.finding import Check, Finding
from raytune_m2f.model import MAIN, UNKNOWN, Outputs
from raytune_m2f.model.criterion import last_output
from raytune_m2f.model.matcher import Matches

WORSE_THAN_NOTHING = 2.0
"""Times ln(classes + 1) from which on a fresh head's first loss is too high: sound ones are between 0.8 and 1.3."""
CHANCE = 2
"""Of few queries the mean is less certain: the bound is higher by this over their number."""
TRAINED_BUT_WORSE = 1.3
"""The same of a head that was trained: it should be far below 1."""
SURE = 12.0
"""A logit that leaves no doubt."""


@check_network("model/initial_loss", "is the first loss of each head that of one who knows nothing?")
def initial_loss(check: Check, bench: Bench) -> Iterator[Finding]:
    """A head's cross-entropy beside that of equal probabilities, ln(classes + 1) for each query, all else being equal.

    Both are the mean over outputs of one sum over queries, divided by the weight of the matched and the unmatched ones:
    so weights, the number of outputs and of queries drop out of their ratio.
    """
    outputs = bench.training_outputs()
    logits = logits_of(outputs)
    even = bench.losses(with_logits(outputs, {head: torch.zeros_like(x) for head, x in logits.items()}))
    losses = bench.losses(outputs)
    trained = bench.from_file
    values: dict[str, float] = {}
    sound = True
    for head in logits:
        nothing = math.log(logits[head].shape[-1])
        ratio = float(losses[term_of(head)].mean() / even[term_of(head)].mean().clamp(min=1e-9))
        values[head] = ratio * nothing
        is_trained = any(name.endswith(f"predictor.{head}_embed.weight") for name in trained)
        bound = TRAINED_BUT_WORSE if is_trained else WORSE_THAN_NOTHING
        if not ratio <= bound * (1 + CHANCE / bench.model.num_queries):
            sound = False
            yield _too_high(check, head, values[head], nothing, is_trained)
    if sound:
        listed = ", ".join(f"{head} {v:.2f} (ln {logits[head].shape[-1]} = {math.log(logits[head].shape[-1]):.2f})"
                           for head, v in values.items())  # fmt: skip
        yield check.ok(f"first loss of a query: {listed}", loss=values)


def _too_high(check: Check, head: str, loss: float, nothing: float, is_trained: bool) -> Finding:
    figure = f"{called(head)} begins at a loss of {loss:.2f} a query; equal probabilities would have {nothing:.2f}"
    if is_trained:
        return check.warning(
            f"{figure}, and its weights are those of MODEL.WEIGHTS",
            "It was trained for other classes, or for these in another order.",
            "Compare the order of the classes with that of the file's training; where it differs, take a file without "
            f"this head ({head}_embed), so that it starts fresh.",
            head=head, loss=loss, nothing=nothing,
        )  # fmt: skip
    return check.problem(
        figure,
        "It is sure of what is wrong before it has learned anything: its first steps only undo that.",
        f"{CODE} look at how {head}_embed is initialised, and at what it is given (decoder_norm before it).",
        head=head, loss=loss, nothing=nothing,
    )  # fmt: skip


@check_network("model/matcher", "does every head count in the matching?")
def matcher(check: Check, bench: Bench) -> Iterator[Finding]:
    """Queries that differ in nothing but one head's classes: an instance must be given one of its own class."""
    if bench.model.num_queries < 2:
        yield check.skipped("there is one query: nothing to choose from")
        return
    outputs = bench.outputs()
    silent = []
    for head in logits_of(outputs):
        labels = _labels(bench)[head]
        known = labels != UNKNOWN
        if not bool(known.any()):
            continue
        told, right = _told(bench, outputs, head)
        pairs = bench.criterion.matcher(told, bench.targets, bench.points())
        given = right[pairs.layers, pairs.images, pairs.queries]  # (L, M): the instance that each query stands for
        agreeing = (labels[given] == labels[pairs.instances]) & (given >= 0)
        seen = known[pairs.instances] & _is_told(bench, pairs.instances)
        if not bool(agreeing[seen].all()):
            silent.append(head)
            yield _ignored(check, head, int((~agreeing[seen]).sum()), int(seen.sum()))
    if not silent:
        yield check.ok(f"each of {len(bench.heads)} heads decides the matching where all else is equal")


def _is_told(bench: Bench, instances: Tensor) -> Tensor:
    """Whether an instance has a query of its own: the first ones of an image have."""
    slots = bench.targets.slots
    return slots[instances] < bench.model.num_queries


def _told(bench: Bench, outputs: Outputs, head: str) -> tuple[Outputs, Tensor]:
    """Queries that are all like the first, but for one head: query Q - 1 - n is sure of the class of instance n.

    Returns:
        the outputs, and (L, B, Q) the instance whose class each query is sure of, -1 for none.
    """
    alike = {name: logits[:, :, :1].expand_as(logits).clone() for name, logits in logits_of(outputs).items()}
    right = torch.full(outputs.pred_logits.shape[:3], -1, device=bench.device)
    logits = alike[head] = torch.zeros_like(alike[head])
    logits[..., -1] = SURE  # no object
    queries = logits.shape[2]
    labels = _labels(bench)[head]
    for n, (image, slot) in enumerate(zip(bench.targets.images.tolist(), bench.targets.slots.tolist(), strict=True)):
        if slot < queries and labels[n] != UNKNOWN:
            at = queries - 1 - slot
            logits[:, image, at, -1] = 0
            logits[:, image, at, labels[n].clamp(max=logits.shape[-1] - 1)] = SURE
            right[:, image, at] = n
    embed = outputs.mask_embed[:, :, :1].expand_as(outputs.mask_embed)
    return replace(with_logits(outputs, alike), mask_embed=embed, distinct=None, maps=None), right


def _labels(bench: Bench) -> dict[str, Tensor]:
    return {MAIN: bench.targets.labels, **bench.targets.sublabels}


def _ignored(check: Check, head: str, wrong: int, of: int) -> Finding:
    return check.problem(
        f"{called(head)} does not decide the matching: where all else is equal, {wrong} of {of} instances are given a "
        "query of another class",
        "A query that has an instance's class right may be trained as 'no object'; all may end as background.",
        f"{CODE} model/matcher.py, HungarianMatcher.cost must subtract the probability of the label of every head, and "
        "the assignment must be that of least cost.",
        head=head, wrong=wrong, of=of,
    )  # fmt: skip


@check_network("model/loss", "does every head count in the loss, and every query without an instance?")
def loss(check: Check, bench: Bench) -> Iterator[Finding]:
    """The gradient of a cross-entropy is softmax minus target: it tells which class the loss wants of each query."""
    outputs = bench.outputs()
    if not bench.criterion.deep_supervision:
        outputs = last_output(outputs)
    leaves = {head: x.clone().requires_grad_() for head, x in logits_of(outputs).items()}
    outputs = with_logits(outputs, leaves)
    terms = bench.losses(outputs)
    pairs = bench.criterion.matcher(outputs, bench.targets, bench.points())
    found = list(_terms(check, bench, terms, leaves))
    for head, x in leaves.items():
        if term_of(head) in terms and terms[term_of(head)].requires_grad:
            (slope,) = torch.autograd.grad(terms[term_of(head)].sum(), x, retain_graph=True, allow_unused=True)
            if slope is not None and bool(slope.any()):
                found += _wanted(check, bench, head, slope, pairs)
    yield from found
    if not found:
        yield check.ok(f"{len(leaves)} heads have their loss, each of its own classes, 'no object' included")


def _terms(check: Check, bench: Bench, terms: dict[str, Tensor], leaves: dict[str, Tensor]) -> Iterator[Finding]:
    """What is missing, or is not of its own head."""
    remedy = f"{CODE} model/criterion.py, SetCriterion.__call__ has one cross-entropy for each head."
    names = list(leaves)
    for head in (head for head in bench.heads if head not in leaves):
        yield check.problem(f"the network has no {called(head)}", "It is never predicted.", remedy, head=head)
    for head in names:
        term = terms.get(term_of(head))
        others = [other for other in names if other != head]
        if term is None or not term.requires_grad:
            what = "is not there" if term is None else "does not depend on what the network predicts"
            yield check.problem(f"the loss of {called(head)} {what}", "It learns nothing.", remedy, head=head)
            continue
        slopes = torch.autograd.grad(term.sum(), list(leaves.values()), retain_graph=True, allow_unused=True)
        by_head = dict(zip(names, slopes, strict=True))
        slope = by_head[head]
        if head not in bench.excerpt.unlabelled and (slope is None or not bool(slope.any())):
            figure = f"the loss of {called(head)} does not change with what it predicts"
            yield check.problem(figure, "It learns nothing.", remedy, head=head)
        for other in others:
            slope = by_head[other]
            if slope is not None and bool(slope.any()):
                figure = f"the loss of {called(head)} changes with what {called(other)} predicts"
                yield check.problem(figure, "One head learns the classes of another.", remedy, head=head)


def _wanted(check: Check, bench: Bench, head: str, slope: Tensor, pairs: Matches) -> Iterator[Finding]:
    """Compare the class that the loss wants of each query with the label of its instance."""
    remedy = f"{CODE} model/criterion.py, SetCriterion.cross_entropy."
    no_object = slope.shape[-1] - 1
    wanted = slope.argmin(-1)
    counts = slope.abs().amax(-1) > 0
    labels = _labels(bench)[head][pairs.instances]  # (L, M)
    at = (pairs.layers.expand_as(pairs.queries), pairs.images.expand_as(pairs.queries), pairs.queries)
    known = labels != UNKNOWN
    wrong = known & ~(counts[at] & (wanted[at] == labels))
    if bool(wrong.any()):
        yield check.problem(
            f"of {int(known.sum())} matched queries {int(wrong.sum())} learn another class in {called(head)} "
            "than their instance has",
            "The head learns what is wrong, however low its loss becomes.",
            remedy,
            head=head, wrong=int(wrong.sum()), of=int(known.sum()),
        )  # fmt: skip
    unmatched = torch.ones_like(counts) if pairs.distinct is None else pairs.distinct.expand_as(counts).clone()
    unmatched[at] = False
    silent = unmatched & ~(counts & (wanted == no_object))
    if bool(silent.any()):
        yield check.problem(
            f"of {int(unmatched.sum())} queries without an instance {int(silent.sum())} do not learn 'no object' in "
            f"{called(head)}",
            "Nothing keeps them from predicting objects everywhere.",
            remedy,
            head=head, silent=int(silent.sum()), of=int(unmatched.sum()),
        )  # fmt: skip


CHECKS: tuple[Check, ...] = (initial_loss, matcher, loss)
