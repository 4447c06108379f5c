"""One line of a search space, `{type: ..., ...}`: what may vary in one key of the configuration.

    SOLVER.BASE_LR:                      {type: loguniform, low: 1.0e-5, high: 1.0e-3}
    SOLVER.WEIGHT_DECAY:                 {type: uniform, low: 0.0, high: 0.1}
    SOLVER.IMS_PER_BATCH:                {type: int, low: 4, high: 16, log: true}
    MODEL.MASK_FORMER.NUM_OBJECT_QUERIES: {type: int, low: 20, high: 300, step: 10}
    SOLVER.BACKBONE_MULTIPLIER:          {type: categorical, choices: [0.1, 0.3, 1.0]}
    MODEL.MASK_FORMER.CLASS_WEIGHT:      {type: share, low: 0.5, high: 10.0}            # of the sum of all shares
    MODEL.MASK_FORMER.MASK_WEIGHT:       {type: share, low: 1.0, high: 20.0}

A key that has an effect only with a certain value of another is searched only there:

    SOLVER.LR_SCHEDULER_NAME:            {type: categorical, choices: [WarmupCosineLR, WarmupPolyLR]}
    SOLVER.POLY_LR_POWER:                {type: uniform, low: 0.5, high: 2.0,
                                          when: {SOLVER.LR_SCHEDULER_NAME: WarmupPolyLR}}     # or a list of values

A range without steps states how many of its values a grid takes (`--sampler grid`; the others ignore it):

    SOLVER.BASE_LR:                      {type: loguniform, low: 1.0e-6, high: 1.0e-4, points: 5}

Where the best value is believed to lie, and how surely (`--sampler auto`; the others ignore it):

    SOLVER.BASE_LR:                      {type: loguniform, low: 1.0e-5, high: 1.0e-2,
                                          prior: {center: 1.0e-3, confidence: high}}     # or center: config
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, get_args

from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError, model_validator
from pydantic_core import ErrorDetails
from typing_extensions import Self

from raytune_m2f.config.fields.base import decode_number
from raytune_m2f.errors import did_you_mean

EXAMPLES = {
    "uniform": "{type: uniform, low: 0.0, high: 1.0}",
    "loguniform": "{type: loguniform, low: 1.0e-5, high: 1.0e-3}",
    "int": "{type: int, low: 20, high: 300, step: 10}",
    "categorical": "{type: categorical, choices: [4, 8, 16]}",
    "share": "{type: share, low: 0.5, high: 10.0}",
}
PRIOR_EXAMPLE = "prior: {center: config, confidence: high}"

Scalar = bool | int | float | str
Confidence = Literal["low", "medium", "high"]
CONFIDENCES: tuple[str, ...] = get_args(Confidence)


class Prior(BaseModel, frozen=True, extra="forbid"):
    """Where the best value of a key is believed to lie. The range is searched all the same."""

    center: Scalar = "config"
    """A value of the range, of a share a raw weight; "config": the configuration's own."""
    confidence: Confidence | None = None
    """None: as `search/axes.py` has it for the key."""


def _read_conditions(when: Any) -> dict[str, tuple[Scalar, ...]]:
    """`{KEY: value or [values]}` as `{KEY: (values)}`."""
    if not isinstance(when, Mapping):
        example = "when: {SOLVER.LR_SCHEDULER_NAME: WarmupPolyLR}"
        raise ValueError(f"got when {when!r}, allowed: a key and its values, such as {example}")
    conditions = {}
    for key, values in when.items():
        listed = values if isinstance(values, list | tuple) else [values]
        if not listed or not all(isinstance(value, Scalar) for value in listed):
            raise ValueError(f"got when {key} {values!r}, allowed: one of its choices or a list of them")
        conditions[str(key)] = tuple(map(decode_number, listed))
    return conditions


def _read_choices(choices: Any) -> tuple[Scalar, ...]:
    """Two or more different values; numbers may be written as text."""
    if not isinstance(choices, list | tuple):
        raise ValueError(f"got choices {choices!r}, allowed: a list such as [4, 8, 16]")
    for choice in choices:
        if not isinstance(choice, Scalar):
            raise ValueError(f"got the choice {choice!r}, allowed: a number, text, true or false")
    decoded = [decode_number(choice) for choice in choices]
    if len(set(decoded)) < len(decoded):
        raise ValueError(f"got choices {decoded}, of which some are equal; name each once")
    if len(decoded) < 2:
        raise ValueError(f"got choices {decoded}, allowed: two or more; a single value belongs in the configuration")
    return tuple(decoded)


def _read_prior(prior: Any) -> Prior | None:
    """`{center: ..., confidence: ...}`, one of them at least; None if that is what is believed anyway."""
    if not isinstance(prior, Mapping) or not prior:
        raise ValueError(f"got prior {prior!r}, allowed: center, confidence or both, such as {PRIOR_EXAMPLE}")
    for name in prior:
        if name not in Prior.model_fields:
            allowed = ", ".join(Prior.model_fields)
            raise ValueError(f"got {name!r}, allowed for prior: {allowed}{did_you_mean(name, Prior.model_fields)}")
    confidence, center = prior.get("confidence", "low"), decode_number(prior.get("center", "config"))
    if confidence not in CONFIDENCES:
        hint = did_you_mean(confidence, CONFIDENCES)
        raise ValueError(f"got prior confidence {confidence!r}, allowed: {', '.join(CONFIDENCES)}{hint}")
    if not isinstance(center, Scalar):
        raise ValueError(f"got prior center {center!r}, allowed: config or a value of the range")
    found = Prior(**{**prior, "center": center})
    return None if found == Prior() else found


Number = Annotated[float, BeforeValidator(decode_number), Field(strict=True, allow_inf_nan=False)]
Whole = Annotated[int, BeforeValidator(decode_number), Field(strict=True)]
When = Annotated[dict[str, tuple[Scalar, ...]], BeforeValidator(_read_conditions)]
"""Values of other keys; the key is left out of a trial unless each of them has one of its values."""

Believed = Annotated[Prior | None, BeforeValidator(_read_prior)]


class _Range(BaseModel, frozen=True, extra="forbid"):
    type: str
    low: Number
    high: Number
    points: Annotated[Whole, Field(ge=2)] = 0
    """How many values of the range a grid takes; 0: not stated."""

    @property
    def is_log(self) -> bool:
        """Whether the scale is logarithmic."""
        return self.type != "uniform"

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        low, high = (f"{end:.12g}" if isinstance(end, float) else end for end in (self.low, self.high))
        if self.low >= self.high:
            raise ValueError(
                f"got low {low} and high {high}, allowed: low < high; a single value belongs in the configuration"
            )
        if self.is_log and self.low <= 0:
            least = "1 or more" if isinstance(low, int) else "above 0"
            raise ValueError(f"got low {low}, allowed: {least}, for the range is logarithmic")
        return self

    def contains(self, value: Any) -> bool:
        """Whether the value can be drawn."""
        return isinstance(value, int | float) and not isinstance(value, bool) and self.low <= value <= self.high


class FloatRange(_Range):
    """Numbers, of which all but `uniform` are drawn on a logarithmic scale; of a share the raw weight."""

    type: Literal["uniform", "loguniform", "share"]
    when: When = {}
    prior: Believed = None

    @property
    def distribution(self) -> FloatDistribution:
        """What Optuna draws from."""
        return FloatDistribution(self.low, self.high, log=self.is_log)


class IntRange(_Range):
    """Whole numbers, in steps or on a logarithmic scale."""

    type: Literal["int"]
    low: Whole
    high: Whole
    step: Annotated[Whole, Field(ge=1)] = 1
    log: Annotated[bool, Field(strict=True)] = False
    when: When = {}
    prior: Believed = None

    @property
    def is_log(self) -> bool:
        """Whether the scale is logarithmic."""
        return self.log

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.log and "step" in self.model_fields_set:
            raise ValueError(f"got log: true with step {self.step}, allowed: one of them, not both")
        if self.points and not self.log:
            raise ValueError(
                f"got points {self.points}, allowed: only with log: true, for a grid takes every step; set step"
            )
        if beyond := (self.high - self.low) % self.step:  # Optuna would lower `high` and only warn
            raise ValueError(
                f"got high {self.high}, which steps of {self.step} from {self.low} never reach; "
                f"write high: {self.high - beyond} or high: {self.high - beyond + self.step}"
            )
        return self

    @property
    def distribution(self) -> IntDistribution:
        """What Optuna draws from."""
        return IntDistribution(self.low, self.high, step=self.step, log=self.log)

    def contains(self, value: Any) -> bool:
        """Whether the value can be drawn."""
        return super().contains(value) and (value - self.low) % self.step == 0


class Categorical(BaseModel, frozen=True, extra="forbid"):
    """One of two or more values."""

    type: Literal["categorical"]
    choices: Annotated[tuple[Scalar, ...], BeforeValidator(_read_choices)]
    when: When = {}
    prior: Believed = None

    @property
    def distribution(self) -> CategoricalDistribution:
        """What Optuna draws from."""
        return CategoricalDistribution(self.choices)

    @property
    def is_ordered(self) -> bool:
        """Whether the choices are numbers that rise or fall: those that stand side by side are alike."""
        if not all(isinstance(choice, int | float) and not isinstance(choice, bool) for choice in self.choices):
            return False
        return list(self.choices) in (sorted(self.choices), sorted(self.choices, reverse=True))

    def contains(self, value: Any) -> bool:
        """Whether the value can be drawn."""
        return value in self.choices


Entry = FloatRange | IntRange | Categorical
_READER: TypeAdapter[Entry] = TypeAdapter(Annotated[Entry, Field(discriminator="type")])


def read_entry(line: Any) -> Entry:
    """The entry of a line.

    Raises:
        ValueError: saying what was got and what is allowed.
    """
    try:
        entry = _READER.validate_python(line)
    except ValidationError as error:
        found = error.errors(include_url=False)
    else:
        if problem := _prior_problem(entry):
            raise ValueError(problem)
        return entry
    unknown = [problem for problem in found if problem["type"] in ("extra_forbidden", "invalid_key")]
    raise ValueError(_describe([*unknown, *found], line))


def _prior_problem(entry: Entry) -> str:
    """Why the value that is believed in cannot be drawn; empty if it can."""
    center = "config" if entry.prior is None else entry.prior.center
    if center == "config" or entry.contains(center):
        return ""
    if isinstance(entry, Categorical):
        allowed = f"one of {', '.join(map(str, entry.choices))}{did_you_mean(center, entry.choices)}"
    elif isinstance(entry, IntRange):
        steps = f" in steps of {entry.step}" if entry.step > 1 else ""
        allowed = f"a whole number from {entry.low} to {entry.high}{steps}"
    else:
        allowed = f"a number from {entry.low:.12g} to {entry.high:.12g}"
    return f"got prior center {center!r}, allowed: config, or {allowed}"


ALLOWED = {
    "float_type": "a number",
    "finite_number": "a number",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "greater_than_equal": "{ge} or more",
}
"""What may stand instead, by the type of pydantic's error."""


def _describe(found: list[ErrorDetails], line: Any) -> str:
    """The first of pydantic's findings."""
    problem = found[0]
    kind, name = problem["type"], "".join(map(str, problem["loc"][-1:]))
    if kind == "model_attributes_type":
        return f"got {line!r}, allowed: a range such as {EXAMPLES['loguniform']}"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        given = line.get("type")
        return f"got type {given!r}, allowed: {', '.join(EXAMPLES)}{did_you_mean(given, EXAMPLES)}"
    if kind == "missing":
        missing = [str(one["loc"][-1]) for one in found if one["type"] == "missing"]
        return f"{' and '.join(missing)} missing; write for example {EXAMPLES[line['type']]}"
    if kind == "value_error":
        return str(problem["ctx"]["error"])
    if kind in ALLOWED:
        return f"got {name} {problem['input']!r}, allowed: {ALLOWED[kind].format(**problem.get('ctx', {}))}"
    models: dict[str, type[Entry]] = {"int": IntRange, "categorical": Categorical}
    fields = [field for field in models.get(line["type"], FloatRange).model_fields if field != "type"]
    return f"got {name!r}, allowed for {line['type']}: {', '.join(fields)}{did_you_mean(name, fields)}"
