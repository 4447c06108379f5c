"""JSON of stored files: one error for what cannot be read, and nothing that could not be printed or saved again."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raytune_m2f.errors import StudyError
from raytune_m2f.storage.text import parse_json, read_json, read_object


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"{", "is no JSON"),
        (b"\xff{}", "line 1 is not UTF-8"),
        ("{}".encode("utf-16"), "UTF-16"),
        (b"[" * 200_000, "nested too deep"),
        (b'{"a": ' * 200_000, "nested too deep"),
        (b'{"a": ' + b"9" * 5000 + b"}", "a number of 5000 digits"),
        (b'["\\ud800"]', r"\\ud800, which is half a character"),
        (b'["\\ud83d\\ude00", "\\uDE00"]', "half a character"),
        (b'["\\u0000"]', None),
        (b'["\\ud83d\\ude00 \\\\ud800"]', None),
    ],
)
def test_what_is_no_json_is_one_error(tmp_path: Path, content: bytes, said: str | None) -> None:
    (tmp_path / "f.json").write_bytes(content)
    if said is None:
        assert isinstance(read_json(tmp_path / "f.json", StudyError), list)
        return
    with pytest.raises(StudyError, match=rf"f\.json.*{said}"):
        read_json(tmp_path / "f.json", StudyError)


@pytest.mark.parametrize("content", ["[1]", "null", '"text"', "3"])
def test_another_type_than_an_object_is_refused(tmp_path: Path, content: str) -> None:
    (tmp_path / "f.json").write_text(content)
    with pytest.raises(StudyError, match=re.escape(f"{tmp_path / 'f.json'}: got ")):
        read_object(tmp_path / "f.json", StudyError)


def test_a_missing_file_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="No such file"):
        read_json(tmp_path / "f.json", StudyError)


def test_numbers_of_any_sensible_size_are_read() -> None:
    assert parse_json("[18446744073709551616, -1.5e300]") == [2**64, -1.5e300]
