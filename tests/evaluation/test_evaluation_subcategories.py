"""Subcategory heads are judged on the instances that were found, and on nothing else."""

from __future__ import annotations

import pytest
from evaluation_cases import CATEGORIES, annotation, dataset, predictions

from raytune_m2f.data import CocoDataset
from raytune_m2f.errors import DatasetError
from raytune_m2f.evaluation import Evaluation, evaluate_results, instances_to_results
from raytune_m2f.model import UNKNOWN, Instances


def evaluate(data: CocoDataset, instances: Instances) -> Evaluation:
    results = instances_to_results(instances, image_id=data.records[0].id, categories=data.categories)
    return evaluate_results(data, results)


def test_confusion_counts_matched_and_labelled_instances() -> None:
    data = dataset(
        [
            annotation(1, 0, colour=0),
            annotation(2, 1, colour=1),
            annotation(3, 2, colour=UNKNOWN),
            annotation(4, 3, colour=2),  # not found
            annotation(5, 4, colour=2, crowd=True),
        ]
    )

    evaluation = evaluate(data, predictions([0, 1, 2, 4], colours=[0, 2, 1, 2]))

    assert evaluation.heads["colour"].confusion.tolist() == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert evaluation.heads["colour"].labelled == 3
    assert evaluation.metrics["colour/accuracy"] == pytest.approx(50.0)
    assert evaluation.metrics["colour/matched"] == 2.0


def test_balanced_accuracy_is_the_mean_over_the_classes_that_were_found() -> None:
    data = dataset([annotation(number, number, colour=0) for number in range(1, 5)] + [annotation(5, 5, colour=2)])
    often = evaluate(data, predictions([1, 2, 3, 4, 5], colours=[0, 0, 0, 0, 0]))
    assert often.metrics["colour/accuracy"] == pytest.approx(80.0)
    assert often.metrics["colour/balanced_accuracy"] == pytest.approx(50.0)
    better = evaluate(data, predictions([1, 2, 3, 4, 5], colours=[0, 1, 0, 0, 2]))
    assert better.metrics["colour/balanced_accuracy"] == pytest.approx((75 + 100) / 2)
    one = evaluate(data, predictions([1, 2], colours=[0, 1]))
    assert one.metrics["colour/balanced_accuracy"] == one.metrics["colour/accuracy"] == pytest.approx(50.0)


def test_what_is_found_stands_beside_what_the_most_frequent_class_would_get() -> None:
    """Four of eight are found, three of them red: to say always red is right in 75 %, and no better than that."""
    data = dataset([annotation(n, n, colour=0 if n < 6 else 2) for n in range(8)] + [annotation(8, 8, colour=UNKNOWN)])
    always = evaluate(data, predictions([0, 1, 2, 6], colours=[0, 0, 0, 0]))
    assert always.metrics["colour/accuracy"] == always.metrics["colour/majority"] == pytest.approx(75.0)
    assert always.metrics["colour/coverage"] == pytest.approx(50.0)
    assert always.metrics["colour/found_and_right"] == pytest.approx(100 * 3 / 8)
    assert always.metrics["colour/macro_f1"] == pytest.approx(100 * (6 / 7 + 0) / 2)  # red: precision 3/4, recall 1
    assert always.heads["colour"].majority == "red"


def test_accuracy_can_be_had_for_finding_little_but_not_what_is_found_and_right() -> None:
    data = dataset([annotation(n, n, colour=n % 3) for n in range(10)])
    one = evaluate(data, predictions([0], colours=[0])).metrics
    all_but_two = evaluate(data, predictions(range(10), colours=[0, 1, 2, 0, 1, 2, 0, 1, 1, 1])).metrics
    assert one["colour/accuracy"] > all_but_two["colour/accuracy"]
    for name in ("colour/found_and_right", "segm/AP_joint_colour", "segm/AP_all"):
        assert one[name] < all_but_two[name]


def test_macro_f1_is_that_of_the_textbook() -> None:
    """Said but never true counts with 0, neither said nor true does not count (scikit-learn's average="macro")."""
    data = dataset([annotation(1, 1, colour=0), annotation(2, 2, colour=0)])
    assert evaluate(data, predictions([1, 2], colours=[0, 1])).metrics["colour/macro_f1"] == pytest.approx(100 / 3)


def test_a_wrong_main_category_is_no_match() -> None:
    evaluation = evaluate(dataset([annotation(1, 0, label=0)]), predictions([0], labels=[1]))

    assert evaluation.metrics["colour/matched"] == 0.0


def test_the_best_scored_of_several_predictions_is_judged() -> None:
    data = dataset([annotation(1, 0, colour=1)])

    evaluation = evaluate(data, predictions([0, 0], colours=[0, 1], scores=[0.4, 0.9]))

    assert evaluation.metrics["colour/accuracy"] == 100.0
    assert evaluation.metrics["colour/matched"] == 1.0


def test_accuracy_is_zero_when_nothing_is_found_and_absent_when_nothing_is_labelled() -> None:
    nothing_found = evaluate(dataset([annotation(1, 0)]), predictions([]))
    nothing_labelled = evaluate(dataset([annotation(1, 0, colour=UNKNOWN)]), predictions([0]))

    for name in ("colour/accuracy", "colour/balanced_accuracy", "colour/macro_f1", "colour/coverage"):
        assert nothing_found.metrics[name] == 0.0
        assert name not in nothing_labelled.metrics
    assert nothing_found.metrics["colour/matched"] == nothing_labelled.metrics["colour/matched"] == 0.0


def test_results_without_the_head_are_refused() -> None:
    results = instances_to_results(predictions([0]), image_id=10, categories=CATEGORIES)
    for key in ("colour", "colour_probabilities"):
        partly = [{name: value for name, value in results[0].items() if name != key}]
        with pytest.raises(DatasetError, match=r"do not state 'colour'.*DATASETS\.SUBCATEGORIES"):
            evaluate_results(dataset([annotation(1, 0)]), partly)
