"""The benchmark of objectives: what it says of the trials of a study."""

from __future__ import annotations

from typing import Any

import pytest

from benchmarks.objective import ALL, AP, SHOWN, choice, mean_with_interval, of_study, rank_correlation, table


def trial(number: int, reports: list[tuple[float, float]], test: tuple[float, float], state: str = "complete") -> Any:
    """Reports and what fresh shapes say, as (AP, AP_all)."""
    told = [{"iteration": 30 * (i + 1), AP: ap, ALL: every} for i, (ap, every) in enumerate(reports)]
    return {
        "number": number,
        "state": state,
        "reports": told,
        "test": dict.fromkeys(SHOWN, 0.0) | dict(zip((AP, ALL), map(float, test), strict=True)),
    }


TRIALS = [
    trial(0, [(10, 3), (20, 5)], (18, 4)),
    trial(1, [(12, 6), (30, 4)], (28, 9)),
    trial(2, [(31, 1)], (1, 1), state="stopped"),
    trial(3, [(15, 2), (25, 5.5)], (29, 7)),
]
ERRORS = {where: dict.fromkeys((AP, ALL), 2.0) for where in ("val", "test")}
ARM = {"trials": TRIALS, "iterations": 210, "errors": ERRORS}


def test_a_trial_is_chosen_by_its_best_report_stopped_ones_too_and_of_equals_the_first() -> None:
    assert choice(TRIALS, AP)["number"] == 2
    assert choice(TRIALS, ALL)["number"] == 1
    assert choice([trial(4, [(5, 5)], (0, 0)), trial(5, [(5, 5)], (0, 0))], AP)["number"] == 4


def test_ranks_are_of_the_trials_that_came_to_their_end() -> None:
    figures = of_study(ARM)
    assert figures["trials to the end"] == 3
    assert figures["ranks: AP and AP_all"] == pytest.approx(1)  # 20, 30, 25 with 5, 6, 5.5
    assert figures["ranks: AP and fresh AP"] == pytest.approx(0.5)  # with 18, 28, 29
    assert figures["ranks: AP_all and fresh AP_all"] == pytest.approx(1)  # with 4, 9, 7
    assert (figures["trial that AP chooses"], figures["trial that AP_all chooses"]) == (2, 1)
    assert (figures["fresh AP_all, chosen by AP"], figures["fresh AP_all, chosen by AP_all"]) == (1, 9)
    assert figures["fresh AP_all, best of all trials"] == 9


def test_trials_without_a_score_on_fresh_shapes_have_no_ranks_there() -> None:
    some = [
        {key: value for key, value in each.items() if key != "test"} if each["number"] == 3 else each for each in TRIALS
    ]
    figures = of_study({**ARM, "trials": some})
    assert figures["ranks: AP and AP_all"] == pytest.approx(1)
    assert not any("ranks" in name and "fresh" in name for name in figures)


def test_a_rank_correlation_needs_three_values_that_differ() -> None:
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 2, 3], [4, 4, 4]) is None
    assert rank_correlation([1, 2, 3], [9, 5, 1]) == pytest.approx(-1)


def test_the_mean_over_seeds_has_students_interval() -> None:
    assert mean_with_interval([1.0]) == "-"
    assert mean_with_interval([1.0, 2.0, 3.0]) == "2.00 ± 2.48"  # 4.303 * 1 / sqrt(3)


def test_the_table_has_a_column_a_seed() -> None:
    apart = {name: {"difference": 1.5, "error": 0.5, "better": 0.9} for name in SHOWN}
    result = {"studies": dict.fromkeys(("AP", "AP_all", "whole"), ARM), "differences": apart}
    text = table({3: result, 4: result}, {"commit": "abc"})
    assert "| AP_all | 1.50 ± 0.50 | 1.50 ± 0.50 | 1.50 ± 0.00 |" in text
    assert "| trial that AP_all chooses | 1 | 1 | - |" in text
    assert "| fresh AP_all, the second less the first | 8.00 | 8.00 | 8.00 ± 0.00 |" in text
    assert "commit: abc" in text


def test_a_single_study_has_a_table_without_differences() -> None:
    text = table({3: {"studies": {"whole": ARM}}}, {"commit": "abc"})
    assert "Difference" not in text
    assert "| fresh AP_all, chosen by AP_all | 9.00 | - |" in text
