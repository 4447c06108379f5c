"""Addresses on stores: what is allowed, and how long a store is asked."""

from __future__ import annotations

from typing import Any

import pytest
from pyarrow.fs import LocalFileSystem

from raytune_m2f.errors import InputError
from raytune_m2f.storage import object_store
from raytune_m2f.storage.address import address_within
from raytune_m2f.storage.object_store import connect


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("s3://key:secret@bucket/study", "holds credentials"),
        ("s3://key@bucket/study", "holds credentials"),
        ("http://bucket/study", "allowed are a directory, s3://BUCKET/PATH"),
        ("s3:///study", "allowed are a directory, s3://BUCKET/PATH"),
        ("s3://bucket/study?nonsense=1", "nonsense"),
    ],
)
def test_a_wrong_address_is_refused(address: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        connect(address)
    assert "secret" not in str(caught.value)


def test_a_bucket_on_google_cloud_is_asked_for_seconds_not_for_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def opened(address: str) -> tuple[Any, str]:
        seen.append(address)
        return LocalFileSystem(), "no such bucket"

    monkeypatch.setattr(object_store, "open_filesystem", opened)
    for address in ("gs://bucket/study", "gs://bucket/study?retry_limit_seconds=5"):
        with pytest.raises(InputError, match="there is no bucket"):
            connect(address)
    assert seen == ["gs://bucket/study?retry_limit_seconds=20", "gs://bucket/study?retry_limit_seconds=5"]


def test_a_query_stays_at_the_end_of_an_address() -> None:
    assert address_within("s3://b/s/?x=1", "trials", "0007") == "s3://b/s/trials/0007?x=1"
