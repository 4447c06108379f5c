"""What a study remembers of an annotation file: whether it has changed, and what its labels and numbers were."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from raytune_m2f.data.collection import without_collection

Fingerprint = dict[str, Any]


@without_collection()
def fingerprint(file: Path, known: Fingerprint | None = None) -> Fingerprint | None:
    """Of an annotation file: "sha256", "images", "annotations", "categories" by id, "subcategories".

    Args:
        known: an earlier one, which is returned at once if the file is still the same.

    Returns:
        None if the file is not on this machine, or no annotation file.
    """
    try:
        content = file.read_bytes()
    except OSError:
        return None
    digest = hashlib.sha256(content).hexdigest()
    if known is not None and known.get("sha256") == digest:
        return known
    try:
        parsed = json.loads(content)
        return {
            "sha256": digest,
            "images": len(parsed["images"]),
            "annotations": len(parsed["annotations"]),
            "categories": [c["name"] for c in sorted(parsed["categories"], key=lambda category: category["id"])],
            "subcategories": {head: list(names) for head, names in (parsed.get("subcategories") or {}).items()},
        }
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return None  # the engine says what is wrong with it


def other_labels(before: Mapping[str, Any], now: Mapping[str, Any], heads: Sequence[str]) -> list[str]:
    """What differs in the names of categories and of these heads' classes, in words."""
    pairs = [("categories", before["categories"], now["categories"])]
    pairs += [(f"subcategory {h!r}", before["subcategories"].get(h), now["subcategories"].get(h)) for h in heads]
    return [f"{what}: {_names(then)} before, {_names(here)} now" for what, then, here in pairs if then != here]


def _names(names: Sequence[str] | None) -> str:
    return "none" if names is None else ", ".join(map(str, names))
