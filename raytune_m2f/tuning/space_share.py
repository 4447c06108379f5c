"""Weights as shares of a sum, `{type: share, low: .., high: ..}`: what is searched is their balance.

The sum of the loss weights acts as the learning rate does (with AdamW, which divides by the size of the gradient,
hardly at all). Searching it beside the learning rate wastes trials: many points are the same training. Optuna draws
a raw weight for each share key; the trial's configuration gets them scaled to the sum of the configuration's own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optuna.distributions import FloatDistribution

from raytune_m2f.config import Config
from raytune_m2f.tuning.space_entry import Entry

ROUNDING = 1e-9


def share_problems(entries: Mapping[str, Entry]) -> Iterator[str]:
    """A line, `KEY: ...`, if a key would have its share with no other."""
    shares = [key for key, entry in entries.items() if entry.share]
    if len(shares) == 1:
        yield (
            f"{shares[0]}: the only key of type share, so that its value would never change; give the type to two "
            "keys or more, or write type: loguniform"
        )


def resolve(entries: Mapping[str, Entry], params: Mapping[str, Any], config: Config) -> dict[str, Any]:
    """The values for the configuration: shares scaled to the sum of the configuration's own values of these keys.

    The configuration's own values resolve to themselves.
    """
    shares = [key for key in params if key in entries and entries[key].share]
    if not shares:
        return dict(params)
    scale = sum(config.value(key) for key in shares) / sum(params[key] for key in shares)
    return {key: value * scale if key in shares else value for key, value in params.items()}


def draw(entries: Mapping[str, Entry], values: Mapping[str, Any]) -> dict[str, Any]:
    """The raw weights within their ranges that have the balance of these values; other keys as they are.

    They are the values themselves where these lie within their ranges, else at the nearest scale. If no scale suits all
    ranges, nothing is changed: the values lie outside the space.
    """
    ranges = {key: entry.distribution for key, entry in entries.items() if entry.share and key in values}
    shares = {key: found for key, found in ranges.items() if isinstance(found, FloatDistribution)}
    if not shares or any(not isinstance(values[key], int | float) or values[key] <= 0 for key in shares):
        return dict(values)
    least = max(found.low / values[key] for key, found in shares.items())
    most = min(found.high / values[key] for key, found in shares.items())
    if least > most * (1 + ROUNDING):
        return dict(values)
    scale = min(max(1.0, least), most)
    drawn = {key: min(max(values[key] * scale, found.low), found.high) for key, found in shares.items()}
    return {**values, **drawn}
