"""Why a trial failed: in words for the user, and as a fingerprint that tells equal failures from different ones."""

from __future__ import annotations

import hashlib
import re
from typing import Any

from optuna.trial import FrozenTrial

_FRAME = re.compile(r'File "(?:.*/)?(?P<file>[^"/]+)", line \d+, in (?P<function>\S+)')
_VARYING = re.compile(r"/\S+|0x[0-9a-f]+|-?\d+(?:\.\d+)?(?:e[+-]?\d+)?")  # paths, addresses and numbers


def fingerprint(error_type: str, cause: str, trace: str = "") -> str:
    """The same for two failures of one kind at one place, whatever the numbers and paths in their messages."""
    frames = [f"{match['file']}:{match['function']}" for match in _FRAME.finditer(trace)]
    first_line = cause.strip().partition("\n")[0]
    essence = "\n".join([error_type, _VARYING.sub("#", first_line), *frames[-1:]])
    return hashlib.sha256(essence.encode()).hexdigest()[:10]


def in_words(trial: FrozenTrial, log: str) -> str:
    """One failed trial: cause, the log's last lines, where to look."""
    attributes: dict[str, Any] = trial.user_attrs
    tail = "\n".join(f"    {line}" for line in attributes.get("log_tail", []))
    return f"trial {trial.number}: {attributes['error_type']}: {attributes['cause']}\nlast lines of {log}:\n{tail}"
