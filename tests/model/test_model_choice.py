"""Rankings and sieves of (query, category) pairs, worked out by hand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import get_args

import pytest
import torch
from torch import Tensor

from raytune_m2f.model import Choice, Frame, MultiTaskMaskFormer, Outputs
from raytune_m2f.model.inference import Ranking, instances_of_image, packed_instances_of_image, ranking_scores

RANKINGS = get_args(Ranking)
FRAME = Frame((32, 32), (32, 32), (32, 32), (32, 32))

# Four queries: two categories, a head of two classes and one of three; the last number is always "no object".
MAIN = [(0.6, 0.3, 0.1), (0.2, 0.7, 0.1), (0.05, 0.05, 0.9), (0.5, 0.4, 0.1)]
FIRST = [(0.9, 0.05, 0.05), (0.2, 0.2, 0.6), (0.1, 0.1, 0.8), (0.4, 0.2, 0.4)]
SECOND = [(0.1, 0.1, 0.7, 0.1), (0.5, 0.2, 0.1, 0.2), (0.1, 0.1, 0.1, 0.7), (0.3, 0.3, 0.2, 0.2)]


def logits_of(rows: Sequence[Sequence[float]]) -> Tensor:
    return torch.tensor(rows).log()


def outputs_of(distinct: Tensor | None = None) -> Outputs:
    """Every query's mask is the whole image, of probability 1 to seven digits, so that scores are the pairs' own."""
    return Outputs(
        pred_logits=logits_of(MAIN)[None, None],
        pred_sublogits={"first": logits_of(FIRST)[None, None], "second": logits_of(SECOND)[None, None]},
        mask_embed=torch.full((1, 1, 4, 1), 20.0),
        mask_features=torch.ones(1, 1, 8, 8),
        distinct=distinct,
    )


def pairs_of(choice: Choice, *, most: int = 100, outputs: Outputs | None = None) -> list[tuple[int, int]]:
    """(query, category) of an image's instances, best first."""
    found = instances_of_image(outputs or outputs_of(), 0, FRAME, choice, max_instances=most)
    assert found.masks.shape == (len(found), 32, 32)
    assert found.masks.all()
    return list(zip(found.queries.tolist(), found.labels.tolist(), strict=True))


ALL = [(1, 1), (0, 0), (3, 0), (3, 1), (0, 1), (1, 0), (2, 0), (2, 1)]


def test_the_main_ranking_is_mask2formers() -> None:
    assert set(pairs_of(Choice())) == set(ALL)
    assert pairs_of(Choice())[:6] == ALL[:6]
    assert pairs_of(Choice(), most=2) == ALL[:2]


def logit(p: float) -> float:
    return math.log(p / (1 - p))


@pytest.mark.parametrize(
    ("ranking", "of_first_query"),
    [
        ("main", 0.6),
        ("sum", (0.6 + 0.9 + 0.7) / 3),
        ("logits", 1 / (1 + math.exp(-(logit(0.6) + logit(0.9) + logit(0.7)) / 3))),
        ("product", 0.6 * 0.9 * 0.7),
    ],
)
def test_a_ranking_is_its_formula(ranking: Ranking, of_first_query: float) -> None:
    found = instances_of_image(outputs_of(), 0, FRAME, Choice(ranking), max_instances=100)
    place = list(zip(found.queries.tolist(), found.labels.tolist(), strict=True)).index((0, 0))
    assert found.scores[place].item() == pytest.approx(of_first_query, abs=1e-6)
    # the second query is Mask2Former's best; where the heads take part it has to give way to the first
    assert found.queries[0] == (1 if ranking == "main" else 0)


@pytest.mark.parametrize("ranking", RANKINGS)
def test_without_a_head_every_ranking_is_the_probability(ranking: Ranking) -> None:
    probs = torch.tensor(MAIN)
    assert torch.equal(ranking_scores(probs, [], ranking), probs[:, :2])


def test_rankings_differ() -> None:
    """One sure head and one unsure, against two that are rather sure."""
    main = torch.tensor([[0.5, 0.5], [0.5, 0.5]])
    heads = [torch.tensor([[0.998, 0.002], [0.8, 0.2]]), torch.tensor([[0.5, 0.5], [0.7, 0.3]])]
    best = {ranking: ranking_scores(main, heads, ranking)[:, 0].argmax().item() for ranking in ("sum", "logits")}
    assert best == {"sum": 1, "logits": 0}  # 1.998 against 2.0; logits 6.2 + 0 against 1.4 + 0.8


def test_logits_are_those_of_a_class_against_the_others() -> None:
    """log-odds: the classifier's output less the log-sum-exp of its others, whatever is added to all of them."""
    rng = torch.Generator().manual_seed(0)
    outputs = 4 * torch.randn(5, 4, generator=rng, dtype=torch.float64)
    others = torch.stack([outputs[:, [j for j in range(4) if j != i]].logsumexp(-1) for i in range(4)], -1)
    wanted = ((outputs - others)[:, :-1] + (outputs - others)[:, :-1].amax(-1, keepdim=True)) / 2
    for shift in (0, 1000 * torch.randn(5, 1, generator=rng, dtype=torch.float64)):
        probs = (outputs + shift).softmax(-1)
        torch.testing.assert_close(ranking_scores(probs, [probs], "logits"), wanted.sigmoid(), atol=1e-12, rtol=1e-9)


@pytest.mark.parametrize("ranking", RANKINGS)
def test_a_score_lies_between_0_and_1_however_sure_the_network_is(ranking: Ranking) -> None:
    probs = torch.tensor([[300.0, 0, 0], [0, 0, 300], [0, 0, 0], [60, 0, -60]]).softmax(-1)
    scores = ranking_scores(probs, [probs, probs[:, 1:]], ranking)
    assert ((scores >= 0) & (scores <= 1)).all()


@pytest.mark.parametrize(
    ("choice", "pairs"),
    [
        (Choice(class_threshold=0.4), [(1, 1), (0, 0), (3, 0), (3, 1)]),  # 0.4 itself passes
        (Choice(class_threshold=0.41), [(1, 1), (0, 0), (3, 0)]),
        (Choice(subcategory_threshold=0.4), [(0, 0), (0, 1)]),
        (Choice(subcategory_threshold=0.3), [(0, 0), (3, 0), (3, 1), (0, 1)]),
        (
            Choice(drop_no_object="any"),
            [(0, 0), (3, 0), (3, 1), (0, 1)],
        ),  # the fourth's draw in head one is no "likelier"
        (Choice(drop_no_object="all"), [(1, 1), (0, 0), (3, 0), (3, 1), (0, 1), (1, 0)]),
        (Choice(one_label=True), [(1, 1), (0, 0), (3, 0), (2, 0)]),
        (Choice("main", 0.35, 0.3, "any", True), [(0, 0), (3, 0)]),
        (Choice(class_threshold=1.0), []),
    ],
)
def test_a_sieve_drops_what_it_says(choice: Choice, pairs: list[tuple[int, int]]) -> None:
    assert pairs_of(choice) == pairs


def test_what_is_dropped_takes_no_place() -> None:
    assert pairs_of(Choice(drop_no_object="any"), most=3) == [(0, 0), (3, 0), (3, 1)]
    assert pairs_of(Choice(one_label=True), most=3) == [(1, 1), (0, 0), (3, 0)]


def test_a_sieve_acts_on_the_main_probability_in_every_ranking() -> None:
    for ranking in RANKINGS:
        assert set(pairs_of(Choice(ranking, class_threshold=0.4))) == {(1, 1), (0, 0), (3, 0), (3, 1)}


def test_sieves_of_heads_drop_nothing_where_there_is_none() -> None:
    outputs = outputs_of()
    bare = Outputs(outputs.pred_logits, {}, outputs.mask_embed, outputs.mask_features)
    for choice in (Choice(subcategory_threshold=0.9), Choice(drop_no_object="any"), Choice(drop_no_object="all")):
        assert set(pairs_of(choice, outputs=bare)) == set(ALL)


def test_repeated_queries_are_none() -> None:
    outputs = outputs_of(torch.tensor([[True, True, False, False]]))
    assert pairs_of(Choice(), outputs=outputs) == [(1, 1), (0, 0), (0, 1), (1, 0)]
    assert pairs_of(Choice(class_threshold=0.4), outputs=outputs) == [(1, 1), (0, 0)]


def test_where_all_is_dropped_an_image_has_no_instance() -> None:
    found = instances_of_image(outputs_of(), 0, FRAME, Choice(class_threshold=1.0), max_instances=5)
    assert found.masks.shape == (0, 32, 32)
    assert {name: tuple(probs.shape) for name, probs in found.subprobs.items()} == {"first": (0, 2), "second": (0, 3)}
    (packed,) = packed_instances_of_image(
        outputs_of(), 0, FRAME, [Choice(class_threshold=1.0)], max_instances=5, pack=lambda crops, size: list(crops)
    )
    assert (packed.masks, packed.scores.shape, packed.labels.dtype) == ([], (0,), torch.int64)


def test_several_choices_at_once_are_each_alone(network: MultiTaskMaskFormer, images: list[Tensor]) -> None:
    """The masks are built once for all: a query that two choices keep has one mask in both."""
    choices = [*(Choice(ranking) for ranking in RANKINGS), Choice("sum", one_label=True), Choice(class_threshold=0.25)]
    made: list[int] = []

    def pack(crops: Sequence[object], size: tuple[int, int]) -> list[int]:
        made.extend(range(len(made), len(made) + len(crops)))
        return made[-len(crops) :]

    together, _ = network.predict_packed(images, [(50, 40)] * 2, pack, choices, max_instances=5)
    assert len(made) <= 2 * network.num_queries
    assert sum(map(len, together)) > len(choices)
    mask_of: dict[int, int] = {}
    for choice, found in zip(choices, together, strict=True):
        alone, _ = network.predict(images, [(50, 40)] * 2, choice, max_instances=5)
        torch.testing.assert_close(found.scores, alone.scores, atol=1e-6, rtol=1e-5)
        assert torch.equal(found.queries, alone.queries)
        assert torch.equal(found.labels, alone.labels)
        for name, probs in alone.subprobs.items():
            assert torch.equal(found.subprobs[name], probs)
        for query, mask in zip(found.queries.tolist(), found.masks, strict=True):
            assert mask_of.setdefault(query, mask) == mask
