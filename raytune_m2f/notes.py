"""What is worth telling the user of data and configuration, in the same words by `train`, `tune` and `doctor`."""

from __future__ import annotations

from typing import NamedTuple


class Note(NamedTuple):
    """Something that may be right, but is worth a look; or, as a problem, what cannot be right.

    Attributes:
        topic: the check of docs/doctor.md that it belongs to: "data/crowds".
        figure: what was seen, with the number and the file.
        meaning: what that means for a training; empty where the figure says it.
        remedy: what to do; empty where the figure says it.
    """

    topic: str
    figure: str
    meaning: str = ""
    remedy: str = ""

    @property
    def text(self) -> str:
        """All of it, for a log."""
        return ". ".join(part for part in (self.figure, self.meaning, self.remedy) if part)
