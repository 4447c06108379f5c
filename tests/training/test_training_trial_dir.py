"""What is in a trial's directory: failures, the log's tail, and files of the user's."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytune_m2f.errors import DatasetError, InputError
from raytune_m2f.storage.files import sealed_yaml
from raytune_m2f.training.trial_dir import add_to_log, log_tail, read_failure, require_own, write_failure


def test_our_own_errors_need_no_trace_others_do(tmp_path: Path) -> None:
    assert read_failure(tmp_path) is None
    write_failure(tmp_path, DatasetError("annotation 7"))
    assert read_failure(tmp_path) == {"error_type": "DatasetError", "cause": "annotation 7", "traceback": ""}
    try:
        raise KeyError("key")
    except KeyError as error:
        write_failure(tmp_path, error)
    failure = read_failure(tmp_path)
    assert failure is not None
    assert failure["error_type"] == "KeyError"
    assert "test_training_trial_dir.py" in failure["traceback"]


def test_the_tail_of_the_log(tmp_path: Path) -> None:
    assert log_tail(tmp_path) == []
    for number in range(5000):
        add_to_log(tmp_path, f"line {number}\n")
    assert log_tail(tmp_path, lines=2) == ["line 4998", "line 4999"]


@pytest.mark.parametrize(
    "content",
    [b"[1]", b"{}", b"null", b"\xff", b"{", b'{"error_type": 1}', b'{"error_type": "E", "cause": [1]}', b"[" * 200_000],
)
def test_a_damaged_record_of_a_failure_is_none_and_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: bytes
) -> None:
    (tmp_path / "failure.json").write_bytes(content)
    assert read_failure(tmp_path) is None
    assert "failure.json" in caplog.text


def test_an_empty_failure_was_not_pulled_yet(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "failure.json").touch()
    assert read_failure(tmp_path) is None
    assert not caplog.text


@pytest.mark.parametrize("name", ["config.yaml", "metrics.jsonl", "failure.json", "checkpoints/best.pth", ".ray/file"])
def test_a_new_run_does_not_begin_on_files_of_the_users(tmp_path: Path, name: str) -> None:
    file = tmp_path / name
    file.parent.mkdir(exist_ok=True)
    file.write_text("mine: true\n")
    with pytest.raises(InputError, match=f"--output: .*{name.removesuffix('/file')} would be written over"):
        require_own(tmp_path, "--output")


def test_a_new_run_may_begin_beside_other_files_or_where_one_was_killed(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    require_own(tmp_path, "--output")
    require_own(tmp_path / "new", "--output")
    (tmp_path / "config.yaml").write_text(sealed_yaml("SEED: 1\n"))
    (tmp_path / "metrics.jsonl").touch()
    require_own(tmp_path, "--output")
