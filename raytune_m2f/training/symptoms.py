"""What the vitals of a report say: heads that learn nothing, instances that no query can find.

Reads reports alone, as `learner/vitals.py` writes them, so that a driver or a reader of a study needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

ALL = 98.0
"""From this share on all matched queries are said to say the same [%]."""
MOST = 90.0
"""Up to this share of its labels, one class is not all that a head should say [%]."""
MANY = 5.0
"""From this share on instances without a query are worth a word [%]."""
MAIN = "class"
"""`raytune_m2f.model.MAIN`, which is not to be had without torch."""
_RIGHT = "/right"


def symptoms(report: Mapping[str, Any]) -> dict[str, str]:
    """Head to what is wrong with it, of every head that has learned nothing as far as this report says.

    Early in a training all heads are so for a while: a head is dead if the report before said it as well.
    """
    vitals = vitals_of(report)
    return {head: text for head in _heads(vitals) if (text := _symptom(vitals, head))}


def _heads(report: Mapping[str, Any]) -> list[str]:
    return [key.split("/")[1] for key in report if key.startswith("vitals/") and key.endswith(_RIGHT)]


def _symptom(vitals: Mapping[str, float], head: str) -> str:
    none, largest, majority, gradient = (
        vitals.get(f"vitals/{head}/{name}", 50.0) for name in ("no_object", "largest", "majority", "gradient")
    )
    if gradient == 0:
        return "its classifier gets no gradient"
    if none >= ALL:
        return f"it says 'no object' of {none:.0f} % of the matched instances"
    if largest >= ALL and majority <= MOST:
        return f"it says one class of {largest:.0f} % of the matched instances, which {majority:.0f} % are of at most"
    return ""


def described(report: Mapping[str, Any]) -> Iterator[str]:
    """All that a report's vitals give to say, a sentence each."""
    for head, text in symptoms(report).items():
        yield f"{head_name(head)}: {text}"
    unmatched = vitals_of(report).get("vitals/unmatched", 0.0)
    if unmatched >= MANY:
        yield (
            f"{unmatched:.0f} % of the training instances have no query of their own: more "
            "MODEL.MASK_FORMER.NUM_OBJECT_QUERIES, or with QUERY_SELECTION heatmap a longer training, find them"
        )


def vitals_of(report: Mapping[str, Any]) -> dict[str, float]:
    """The vitals of a report, by their keys [%]; what is no number, in a file that somebody changed, is none."""
    return {key: float(v) for key, v in report.items() if key.startswith("vitals/") and isinstance(v, int | float)}


def summary(vitals: Mapping[str, float]) -> str:
    """How the heads stand in training, in a line; empty of a report without vitals."""
    parts = []
    for head in _heads(vitals):
        right, most, none, entropy, gradient = (
            vitals.get(f"vitals/{head}/{name}", 0.0)
            for name in ("right", "majority", "no_object", "entropy", "gradient")
        )
        parts.append(
            f"{head_name(head)} {right:.0f} % right (its commonest class is {most:.0f} %), {none:.0f} % 'no object', "
            f"entropy {entropy:.0f} %, gradient {gradient:.0f} %"
        )
    return "; ".join(parts)


def head_name(head: str) -> str:
    """What a head is called in a message."""
    return "the category" if head == MAIN else f"head {head}"
