"""Every error that raytune_m2f raises on purpose.

    RaytuneM2FError              exit code 1: the work failed
      TrainingError              a trial could not go on
        NonFiniteLossError       the loss or a metric became NaN or infinite
        OutOfMemoryError         one image at a time is still too much
      CheckpointError            no checkpoint could be read or written
      VerificationError          an export does not score what its trial reported
      UnreadableImagesError      some images were left out, the others are done
      InputError                 exit code 2: what the user gave is wrong
        ConfigError              a configuration file, key or value
        SearchSpaceError         a search space file, key or range
        DatasetError             an annotation file, an image or a label
        StudyError               a study directory
        ModelError               an exported model or a weights file
        MissingDependencyError   an optional package is not installed

A message names what was got, where, what is allowed and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class RaytuneM2FError(Exception):
    """The root of the tree; `exit_code` is what the command line returns."""

    exit_code = 1


class TrainingError(RaytuneM2FError):
    """A trial could not go on."""


class NonFiniteLossError(TrainingError):
    """The loss or a metric became NaN or infinite: a failure, never a score."""


class OutOfMemoryError(TrainingError):
    """One image at a time is still too much for the memory of the GPU or of the machine."""


class CheckpointError(RaytuneM2FError):
    """No checkpoint could be read or written."""


class VerificationError(RaytuneM2FError):
    """An export does not score what its trial reported, or could not be evaluated again; nothing was exported."""


class UnreadableImagesError(RaytuneM2FError):
    """Some images could not be read; what was asked for is done for the others."""


class InputError(RaytuneM2FError):
    """What the user gave is wrong; nothing was started and nothing was lost."""

    exit_code = 2


class ConfigError(InputError):
    """A configuration file, key or value."""


class SearchSpaceError(InputError):
    """A search space file, key or range."""


class DatasetError(InputError):
    """An annotation file, an image or a label."""


class StudyError(InputError):
    """A study directory that is missing, taken, or does not fit the request."""


class ModelError(InputError):
    """An exported model or a weights file."""


class MissingDependencyError(InputError):
    """An optional package is needed and not installed."""


def closest(word: object, options: Iterable[object], cutoff: float = 0.6) -> str | None:
    """The option spelt most like `word`; None if none is alike, by at least `cutoff` from 0 to 1."""
    close = difflib.get_close_matches(str(word), [str(option) for option in options], n=1, cutoff=cutoff)
    return close[0] if close else None


def did_you_mean(word: object, options: Iterable[object], *, quote: bool = False) -> str:
    """`; did you mean ...?` for the end of a message, naming the closest option; empty if none is close."""
    found = closest(word, options)
    return f"; did you mean {found!r}?" if found and quote else f"; did you mean {found}?" if found else ""


def join_problems(problems: Sequence[str]) -> str:
    """Several problems as the message of one error: the first alone, or their number and a line for each."""
    return problems[0] if len(problems) == 1 else "\n  ".join([f"{len(problems)} problems:", *problems])


def first_of(values: Sequence[object], limit: int) -> list[str]:
    """The first `limit` values as text for a message, then "... and 3 more" if there are more."""
    rest = [f"... and {len(values) - limit} more"] if len(values) > limit else []
    return [*map(str, values[:limit]), *rest]
