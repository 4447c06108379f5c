"""Failures as fingerprints and in words."""

from __future__ import annotations

import pytest
from optuna.trial import TrialState, create_trial

from raytune_m2f.study.record.attributes import failure_in_words, fingerprint

TRACE = 'Traceback:\n  File "/a/b/worker.py", line 12, in train\n  File "/a/b/loss.py", line 3, in forward\nKeyError'


def test_numbers_paths_and_addresses_do_not_matter() -> None:
    one = fingerprint("DatasetError", "/data/a.json: annotation 7 has label 9", TRACE)
    other = fingerprint("DatasetError", "/other/b.json: annotation 12 has label -1", TRACE.replace("line 3", "line 99"))
    assert one == other
    assert fingerprint("E", "tensor at 0x7f3a is 1e-05") == fingerprint("E", "tensor at 0xdead00 is 3.5")


@pytest.mark.parametrize(
    ("kind", "cause", "trace"),
    [
        ("KeyError", "label 9", TRACE),
        ("DatasetError", "no such file", TRACE),
        ("DatasetError", "label 9", TRACE.replace("forward", "backward")),
        ("DatasetError", "label 9", TRACE.replace("loss.py", "model.py")),
    ],
)
def test_kind_words_and_place_matter(kind: str, cause: str, trace: str) -> None:
    assert fingerprint(kind, cause, trace) != fingerprint("DatasetError", "label 9", TRACE)


def test_only_the_first_line_of_a_cause_counts() -> None:
    assert fingerprint("E", "\nout of memory\nreserved 3 GiB by a") == fingerprint("E", "out of memory\nby b")


def test_a_failure_in_words() -> None:
    attributes = {"error_type": "DatasetError", "cause": "label 9", "log_tail": ["reading", "annotations"]}
    trial = create_trial(state=TrialState.FAIL, user_attrs=attributes)
    text = failure_in_words(trial, "/study/trials/0007/log.txt")
    assert text.splitlines() == [
        "trial -1: DatasetError: label 9",
        "last lines of /study/trials/0007/log.txt:",
        "    reading",
        "    annotations",
    ]
