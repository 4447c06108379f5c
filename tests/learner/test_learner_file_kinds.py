"""A file that is no weights is named for what it is, with what to do, in one line, before anything is started."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raytune_m2f.errors import CheckpointError, ModelError
from raytune_m2f.learner.weight_files import check_source, not_weights, read_state_dict
from raytune_m2f.training import checkpoint


def saved(content: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file)
    return file.getvalue()


def zipped(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    return len(header).to_bytes(8, "little") + header + bytes(4)


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, a=np.zeros(2))
    return file.getvalue()


WHOLE = saved({"model": {"w": torch.zeros(64)}})
OTHERS = {
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid\n", r"a Git LFS pointer \(\d+ bytes.*lfs pull"),
    "html": (b"\n<!DOCTYPE html><html><body>Sign in</body></html>", "a web page.*download it again"),
    "xml": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page"),
    "long html": (b"<html>" + "ü".encode() * 4000, "a web page"),
    "text": (b"404: Not Found", "a text file that begins with '404: Not Found'"),
    "json": (b'{"message": "Not Found"}', "a text file that begins with"),
    "empty": (b"", "an empty file"),
    "cut short": (WHOLE[:200], r"cut short \(it has 200 bytes\)"),
    "half": (WHOLE[: len(WHOLE) // 2], "cut short"),
    "zip": (zipped(readme=b"hello"), r"a zip archive that is not torch's \(it holds readme\)"),
    "npz": (npz(), "an archive of numpy arrays"),
    "safetensors": (safetensors(), "a safetensors file.*load_file"),
    "gzip": (gzip.compress(WHOLE), "a gzip archive: unpack it"),
    "png": (b"\x89PNG\r\n\x1a\n" + bytes(20), "a PNG image"),
}  # fmt: skip


@pytest.mark.parametrize("kind", OTHERS)
def test_it_is_named_before_and_when_it_is_read(tmp_path: Path, kind: str) -> None:
    content, said = OTHERS[kind]
    path = tmp_path / "weights.pth"
    path.write_bytes(content)
    for read in (check_source, read_state_dict):
        with pytest.raises(ModelError, match=rf"weights\.pth' cannot be read: it is {said}") as found:
            read(str(path))
        assert "\n" not in str(found.value)
        assert len(str(found.value)) < 300 + len(str(path))
    with pytest.raises(CheckpointError, match=rf"weights\.pth: it is {said}"):
        checkpoint.load(path)


@pytest.mark.parametrize(
    "content",
    [
        WHOLE,
        pickle.dumps({"w": np.zeros(1)}, protocol=2),
        pickle.dumps({"w": 1}, protocol=0),
        pickle.dumps({"w": 1}, protocol=4),
    ],
)
def test_what_may_be_weights_is_left_to_torch(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "w").write_bytes(content)
    assert not_weights(tmp_path / "w") == ""


class Own:
    """A class of the user's in a file of weights."""


@pytest.mark.parametrize("suffix", [".pth", ".pkl"])
@pytest.mark.parametrize("old", [True, False])
def test_more_than_tensors_is_said_in_one_line(tmp_path: Path, suffix: str, old: bool) -> None:
    path = tmp_path / f"w{suffix}"
    if suffix == ".pkl":
        path.write_bytes(pickle.dumps({"model": Own()}))
    else:
        torch.save({"model": Own()}, path, _use_new_zipfile_serialization=not old)
    with pytest.raises(ModelError, match=r"holds Python's .*Own beside tensors.*save the tensors alone") as found:
        read_state_dict(str(path))
    assert "\n" not in str(found.value)
    assert not re.search("weights_only|likely succeed|file an issue", str(found.value))


@pytest.mark.parametrize("content", [b"\x80\x02garbage", b"\x00" * 50, bytes(range(128, 256)), b"(dp0"])
def test_garbage_is_one_line_too(tmp_path: Path, content: bytes) -> None:
    for name in ("w.pth", "w.pkl"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ModelError, match="cannot be read") as found:
            read_state_dict(str(tmp_path / name))
        assert "\n" not in str(found.value)
        assert "weights_only" not in str(found.value)


def test_a_list_is_no_weights(tmp_path: Path) -> None:
    torch.save([torch.zeros(1)], tmp_path / "w.pth")
    with pytest.raises(ModelError, match="it holds a list, allowed: a dictionary of tensors"):
        read_state_dict(str(tmp_path / "w.pth"))
