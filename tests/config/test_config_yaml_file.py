"""YAML that would hang, break or fool a reader is one error at once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raytune_m2f.config import load_config
from raytune_m2f.config.yaml_file import DEEPEST, MOST_BYTES, MOST_REPEATED, parse_value, read_yaml
from raytune_m2f.errors import ConfigError

LAUGHS = "a: &a [1, 1, 1, 1, 1, 1, 1, 1, 1]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (LAUGHS, r"line \d+, column \d+: aliases such as \*. repeat more than"),
        ("SOLVER: &s {X: *s}", r"line 1, column 16: \*s stands within &s itself"),
        ("A: &a [[*a]]", r"\*a stands within &a itself"),
        ("A: " + "[" * 3000, f"nested deeper than {DEEPEST} levels"),
        ("{A: " * 5000 + "1" + "}" * 5000, "nested deeper"),
        ("SEED: 1".encode("utf-16"), "UTF-16; save it as UTF-8"),
        ("A: 1\nB: é".encode("latin-1"), r"line 2 is not UTF-8 \(byte 0xe9\)"),
        (b"\x80\x02}q\x00", "line 1 is not UTF-8"),
        ("A: b\0c", "unacceptable character #x0000"),
        ('A: "b\\0c"', "line 1, column 4: a text with a NUL in it"),
        ('A: "\\ud800"', r"a text with \\ud800, which is half a character"),
        ("A: " + "9" * 5000, "the value '9+' is no int"),
        ("A: 0x" + "f" * 5000, "a number of more than 64 bits"),
        ("A: 1" + ":59" * 5000, "a number of more than 64 bits"),
        ("A: !!bool maybe", "the value 'maybe' is no bool"),
        ("A: !!timestamp soon", "the value 'soon' is no timestamp"),
        ("A: !!int ''", "the value '' is no int"),
        ("A: 2001-99-99", "the value '2001-99-99' is no timestamp"),
        ("A: !!map b", "expected a mapping"),
        ("A: *b", "undefined alias"),
        ("? [a]\n: 1", "unhashable key"),
        ("A: 1\nA: 2", "'A' is given twice"),
        ("- A", "got list at the top"),
        ("only text", "got str at the top"),
    ],
)
def test_a_hostile_or_broken_file_is_one_error(tmp_path: Path, content: str | bytes, said: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ConfigError, match=rf"c\.yaml: .*{said}"):
        read_yaml(path, ConfigError)


def test_what_is_no_file_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "large").open("wb") as file:
        file.truncate(MOST_BYTES + 1)
    for name, said in (("", "is a folder"), ("pipe", "is a pipe"), ("large", "MiB: is it this file"),
                       ("no", "no such file"), ("a\0b", "no such file"), ("n" * 300, "no such file")):  # fmt: skip
        with pytest.raises(ConfigError, match=said):
            read_yaml(tmp_path / name, ConfigError)


def test_aliases_in_measure_work(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("a: &a {x: 1, y: [2]}\nb: {<<: *a, z: 3}\nc: *a\n")
    assert read_yaml(tmp_path / "c.yaml", ConfigError) == {
        "a": {"x": 1, "y": [2]}, "b": {"x": 1, "y": [2], "z": 3}, "c": {"x": 1, "y": [2]},
    }  # fmt: skip
    many = MOST_REPEATED // 2 + 1
    (tmp_path / "c.yaml").write_text(f"a: &a [1]\nb: [{', '.join(['*a'] * (many - 1))}]\n")
    assert len(read_yaml(tmp_path / "c.yaml", ConfigError)["b"]) == many - 1
    (tmp_path / "c.yaml").write_text(f"a: &a [1]\nb: [{', '.join(['*a'] * many)}]\n")
    with pytest.raises(ConfigError, match="repeat more than"):
        read_yaml(tmp_path / "c.yaml", ConfigError)


def test_a_byte_order_mark_is_no_part_of_the_first_key(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("SEED: 3\n", encoding="utf-8-sig")
    assert load_config(tmp_path / "c.yaml").SEED == 3


def test_a_chain_of_bases_has_an_end(tmp_path: Path) -> None:
    for number in range(1300):
        (tmp_path / f"{number}.yaml").write_text(f"_BASE_: {number + 1}.yaml\n")
    with pytest.raises(ConfigError, match=r"0\.yaml: _BASE_: got more than 20 files"):
        load_config(tmp_path / "0.yaml")


def test_a_base_of_a_name_that_no_file_can_have_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"_BASE_: {'n' * 3000}\n")
    with pytest.raises(ConfigError, match="but there is no file"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("SEED=*a", "undefined alias"),
        ("SEED=&a", "got nothing"),
        ("SEED=!!python/name:os.system", "would run Python"),
        ("SEED=" + "[" * 3000, "nested deeper"),
        ("SEED=" + "9" * 5000, "is no int"),
        ("SEED=\udcff", "special characters"),
        ("=1", "allowed: KEY=VALUE"),
        ("ключ=1", "ключ: unknown key"),
        (".".join("A" * 10000) + "=1", "a key of 10000 parts"),
        ("SEED=[1", "line 1"),
    ],
)
def test_a_value_of_the_command_line_that_is_none_is_named(tmp_path: Path, override: str, said: str) -> None:
    (tmp_path / "c.yaml").touch()
    with pytest.raises(ConfigError, match=rf"command line: .*{said}") as found:
        load_config(tmp_path / "c.yaml", [override])
    assert len(str(found.value)) < 400


def test_no_value_is_the_empty_text() -> None:
    assert parse_value("") == parse_value("  ") == ""
