"""Addresses: their parts, and the credentials in them, which would be saved in a file, shown in a log or sent along.

A `${VARIABLE}` in the place of a password is no credential.
"""

from __future__ import annotations

import os
import re
from urllib.parse import parse_qsl, urlsplit

_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://[^\s'\"]+")
_VARIABLES = re.compile(r"(\$\{\w+\}|\$\w+)+")
_SECRET_KEY = re.compile(
    r"pass(word|wd|phrase)?|pwd|.*secret.*|.*token|api[-_]?key|.*access[-_]?key(id)?|.*credentials?|sig|.*signature|auth",
    flags=re.IGNORECASE,
)
_IN_VALUE = re.compile(r"(?:pwd|password)\s*=\s*([^;]*)", flags=re.IGNORECASE)  # of ODBC
_USER_IS_SECRET = ("http", "https", "ftp", "s3", "gs")
"""Where a name before the @ may be a token."""


def is_address(path: str | os.PathLike[str]) -> bool:
    """Whether it names a folder on an object store, not a directory."""
    return "://" in os.fspath(path)


def address_within(address: str, *names: str) -> str:
    """The address of a file or a folder below another one; a query stays at the end."""
    parts = urlsplit(address)
    return parts._replace(path="/".join([parts.path.rstrip("/"), *names])).geturl()


def holds_credentials(text: str) -> bool:
    """Whether an address in the text has a password, a token or a signature in it."""
    return any(_has_credentials(found[0]) for found in _ADDRESS.finditer(text))


def without_credentials(text: str) -> str:
    """The text to be shown: neither who logs in nor what is asked for is left in its addresses."""
    return re.sub(r"(://[^\s?]*)\?\S*", r"\1?...", re.sub(r"://[^/\s]*@", "://...@", text))


def _has_credentials(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:  # no address after all
        return False
    user, colon, password = parts.netloc.rpartition("@")[0].partition(":")
    if _is_secret(password) or (
        not colon and parts.scheme in _USER_IS_SECRET and user != "anonymous" and _is_secret(user)
    ):
        return True
    return any(_is_secret_option(key, value) for key, value in parse_qsl(parts.query, max_num_fields=None))


def _is_secret_option(key: str, value: str) -> bool:
    if _SECRET_KEY.fullmatch(key) and _is_secret(value):
        return True
    return holds_credentials(value) or any(_is_secret(found[1]) for found in _IN_VALUE.finditer(value))


def _is_secret(value: str) -> bool:
    return bool(value) and not _VARIABLES.fullmatch(value)
