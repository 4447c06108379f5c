"""Addresses that hold a password, and those that do not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from raytune_m2f.config import load_config
from raytune_m2f.errors import ConfigError, InputError
from raytune_m2f.storage.address import holds_credentials, without_credentials
from raytune_m2f.storage.object_store import connect

WITH = [
    "postgresql://me:pw@host/db",
    "redis://:pw@host",
    "KEY=https://me:pw@host/x",
    "https://token@host/x",
    "s3://key:secret@bucket/x",
    "s3://bucket/x?endpoint_override=http://u:p@host:9000",
    "s3://bucket/x?endpoint_override=http%3A%2F%2Fu%3Ap%40host",
    "https://host/w.pth?X-Amz-Algorithm=a&X-Amz-Signature=abc",
    "https://host/w.pth?access_token=abc",
    "https://host/w.pth?api_key=abc",
    "https://host/w?sv=2&sig=abc",
    "mysql://me@host/db?passwd=abc",
    "mssql+pyodbc:///?odbc_connect=DRIVER%3Dx%3BPWD%3Dabc",
    "two https://host/a https://u:p@host/b",
]
WITHOUT = [
    "",
    "me:pw@host",
    "https://host/w.pth?version=3&download=1",
    "postgresql://me:${DB_PASSWORD}@host/db",
    "postgresql://me@host/db",
    "postgresql://host/db?password=${PW}",
    "s3://bucket/x?region=eu&endpoint_override=http://host:9000",
    "s3://anonymous@bucket/x",
    "detectron2://COCO/model.pkl",
    "https://[broken",
    "a:b://c",
]


@pytest.mark.parametrize("text", WITH)
def test_with(text: str) -> None:
    assert holds_credentials(text)
    assert not re.search("pw|secret|u:p|u%3Ap|abc|token", without_credentials(text))


@pytest.mark.parametrize("text", WITHOUT)
def test_without(text: str) -> None:
    assert not holds_credentials(text)


@pytest.mark.parametrize("key", ["MODEL.WEIGHTS"])
def test_a_configuration_that_would_be_saved_holds_none(tmp_path: Path, key: str) -> None:
    (tmp_path / "c.yaml").touch()
    with pytest.raises(ConfigError, match=rf"{key}: got an address with credentials.*Download the file") as found:
        load_config(tmp_path / "c.yaml", [f"{key}=https://me:hunter2@host/w.pth"])
    assert "hunter2" not in str(found.value)
    with pytest.raises(ConfigError, match="credentials"):
        load_config(tmp_path / "c.yaml", ["DATASETS.TRAIN=['https://me:hunter2@host']"])


@pytest.mark.parametrize("address", ["s3://k:hunter2@b/x", "s3://b/x?endpoint_override=http://u:hunter2@h"])
def test_a_store_takes_them_from_the_environment(address: str) -> None:
    with pytest.raises(InputError, match="holds credentials") as found:
        connect(address)
    assert "hunter2" not in str(found.value)
