"""The model card of an export, README.md: what the model is, what it was made of, how good it is, and how to use it."""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from raytune_m2f.config import Config
from raytune_m2f.config.schema import AnyModelConfig
from raytune_m2f.data import Categories
from raytune_m2f.data.compare import fingerprint
from raytune_m2f.evaluation.bootstrap import Z
from raytune_m2f.learner.optimizer import effective_lr

Rows = Iterable[Sequence[str]]


@dataclass(frozen=True)
class Origin:
    """Where an exported checkpoint is from.

    Attributes:
        run: the directory or the address of the trial or the training.
        study: what the card says of study and trial, by name; empty of a training without a study.
        values: of the searched keys.
        data: the `fingerprint` of annotation files when the study began, by the names of data sets.
    """

    run: str
    study: Mapping[str, str] = field(default_factory=dict)
    values: Mapping[str, Any] = field(default_factory=dict)
    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Card:
    """All that a model card says.

    Attributes:
        output: the directory of the export.
        files: in it, without README.md, by name.
        report: of the exported checkpoint.
        checked: the scores of the export in a fresh process (`Scores.as_dict`), None if it was not evaluated again.
        compared: each metric that was compared, as the trial reported it and as the export has it.
        how_to_use: Markdown, in place of the commands that use a native export.
    """

    output: Path
    files: Sequence[str]
    origin: Origin
    config: Config
    categories: Categories
    report: Mapping[str, Any]
    checked: Mapping[str, Any] | None = None
    compared: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    how_to_use: str | None = None

    def text(self) -> str:
        """The card, in Markdown with the metadata that model hubs read before it."""
        parts = [
            f"# {_cell(self.output.resolve().name)}",
            f"A {self._kind}, exported by raytune_m2f from {_code(self.origin.run)} at iteration "
            f"{self.report['iteration']}.",
            self._verification(),
            "## Metrics",
            *self._metrics(),
            "## Data",
            *self._data(),
            "## Configuration",
            _table(("key", "value"), self._configuration()),
            *self._study(),
            "## How to use it",
            self.how_to_use or self._commands(),
            self._contents(),
        ]
        return f"---\n{yaml.safe_dump(self._metadata(), sort_keys=False)}---\n\n" + "\n\n".join(parts) + "\n\n"

    @property
    def _theirs(self) -> bool:
        """Whether it is a network of detectron2's."""
        return isinstance(self.config, AnyModelConfig)

    @property
    def _kind(self) -> str:
        return f"{self.config.MODEL.META_ARCHITECTURE} of detectron2" if self._theirs else "multitask Mask2Former"

    def _metadata(self) -> dict[str, Any]:
        tags = ["instance-segmentation", *([] if self._theirs else ["mask2former"])]
        return {"library_name": "raytune_m2f", "pipeline_tag": "image-segmentation", "tags": tags}

    def _verification(self) -> str:
        if self.checked is None:
            return (
                "**Not verified** (`--skip-verify`): nobody has evaluated these files. The metrics are those that the "
                "training reported."
            )
        pairs = ", ".join(f"{name} {now:.2f} (reported: {then:.2f})" for name, (then, now) in self.compared.items())
        return (
            f"**Verified**: the weights were loaded again in a fresh process and evaluated on the "
            f"{self.checked['images']} test images that the trial was scored by: {pairs}."
        )

    def _metrics(self) -> Iterator[str]:
        """A table of the whole, one of each category, one of each head."""
        values, errors = self._scores()
        tasks = {name.partition("/")[0] for name in values} - set(self.categories.subcategories)
        heads = self.categories.subcategories
        left = dict(values)
        sections: list[tuple[str, list[str]]] = []
        for head in heads:
            own = [name for name in left if name.startswith(f"{head}/")]
            own += [f"{task}/AP_{kind}_{head}" for task in sorted(tasks) for kind in ("joint", "lower", "upper")]
            sections.append((f"Subcategory {_cell(head)}: {_cell(', '.join(heads[head]))}", own))
        sections.append(("Each category", [name for name in left if name.startswith(tuple(f"{t}/AP-" for t in tasks))]))
        for _, own in sections:
            for name in own:
                left.pop(name, None)
        counts = (self.checked or {}).get("counts", {})
        head_of_table = ("metric", "%", "95 % interval", "annotations")
        yield _table(head_of_table, (_scored(name, values, errors, counts) for name in left))
        for title, own in sections:
            if rows := [_scored(name, values, errors, counts) for name in own if name in values]:
                yield f"### {title}"
                yield _table(head_of_table, rows)
        if heads:
            yield (
                "`AP_all` is AP with the category and every subcategory right, `AP_joint_HEAD` with this one right; "
                "`lower` and `upper` are their bounds. `majority` is the accuracy of the most frequent class alone."
            )
        unsure = "" if any(not math.isnan(error) for error in errors.values()) else " None was computed here."
        yield f"Intervals are of other images of the same kind, by the bootstrap over the test images.{unsure}"

    def _scores(self) -> tuple[dict[str, float], dict[str, float]]:
        """Every metric, and its standard error where it is known (NaN elsewhere)."""
        if self.checked is not None:
            found, errors = self.checked["metrics"], self.checked["standard_errors"]
            values = {name: math.nan if value is None else value for name, value in found.items()}
            values = {
                name: value for name, value in values.items() if name.removesuffix("_se") not in found.keys() - {name}
            }
            return values, {name: math.nan if errors.get(name) is None else errors[name] for name in values}
        scores = {n: v for n, v in self.report.items() if "/" in n and not n.startswith("vitals/")}
        errors_of = {f"{name}_se": name for name in scores}
        values = {name: value for name, value in scores.items() if name not in errors_of}
        return values, {name: scores.get(f"{name}_se", math.nan) for name in values}

    def _data(self) -> Iterator[str]:
        datasets = self.config.DATASETS
        rows = []
        for name in dict.fromkeys((*datasets.TRAIN, *datasets.TEST[:1])):
            roles = [role for role, names in (("train", datasets.TRAIN), ("test", datasets.TEST[:1])) if name in names]
            entry = datasets.REGISTER.get(name)
            seen = self.origin.data.get(name) or (fingerprint(Path(entry.annotations)) if entry else None) or {}
            file = _code(str(entry.annotations)) if entry is not None else "in detectron2's catalog"
            counts = [str(seen.get(what, "")) for what in ("images", "annotations")]
            rows.append((" and ".join(roles), _cell(name), *counts, file, str(seen.get("sha256", ""))[:12]))
        yield _table(("used to", "data set", "images", "annotations", "file", "SHA-256 begins"), rows)
        labels = {"categories": self.categories.names, **self.categories.subcategories}
        yield _table(("labels", "names"), ((_cell(what), _cell(", ".join(names))) for what, names in labels.items()))

    def _configuration(self) -> Iterator[tuple[str, str]]:
        config = self.config
        yield "network", _cell(str(config.MODEL.META_ARCHITECTURE))
        if not self._theirs:
            depth = f" {config.MODEL.RESNETS.DEPTH}" if "resnet" in config.MODEL.BACKBONE.NAME else ""
            yield "backbone", _cell(f"{config.MODEL.BACKBONE.NAME}{depth}")
            yield "queries", str(config.MODEL.MASK_FORMER.NUM_OBJECT_QUERIES)
            yield (
                "test images, shortest and longest side",
                f"{config.INPUT.MIN_SIZE_TEST}, {config.INPUT.MAX_SIZE_TEST}",
            )
        yield "initial weights", _code(config.MODEL.WEIGHTS) if config.MODEL.WEIGHTS else "none: from scratch"
        yield "iterations", f"{self.report['iteration']} of {config.SOLVER.MAX_ITER}"
        yield "learning rate (effective), batch", f"{effective_lr(config):.3g}, {config.SOLVER.IMS_PER_BATCH}"
        yield "seed of the training", str(config.SEED)

    def _study(self) -> Iterator[str]:
        if self.origin.study:
            yield "## Study"
            yield _table(("what", "value"), ((_cell(what), _cell(text)) for what, text in self.origin.study.items()))
        if self.origin.values:
            yield _table(
                ("searched key", "value"), ((_code(key), _code(str(v))) for key, v in self.origin.values.items())
            )

    def _commands(self) -> str:
        output = shlex.quote(str(self.output))
        return f"""    raytune-m2f predict --model {output} --output predictions IMAGE...
    raytune-m2f evaluate --model {output} --annotations FILE --images DIR

In Python:

    import raytune_m2f as rm
    model = rm.load_model({str(self.output)!r})
    print(model.predict("image.jpg"))"""

    def _contents(self) -> str:
        names = "detectron2" if self._theirs else "Mask2Former"
        known = {
            "model.safetensors": f"the weights in {names}'s names",
            "model.pth": f"the same weights, as {names} loads them",
            "config.yaml": "the whole configuration",
            "categories.json": "the names of all labels",
            "metrics.json": "what the training reported",
        }
        return _table(("file", "holds"), ((_code(name), known.get(name, "")) for name in self.files))


def _scored(
    name: str, values: Mapping[str, float], errors: Mapping[str, float], counts: Mapping[str, int]
) -> tuple[str, ...]:
    value, margin = values[name], Z * errors.get(name, math.nan)
    count = str(counts.get(name, ""))
    if math.isnan(value):
        return _cell(name), "no ground truth", "", count
    if name.endswith("/matched"):  # a number of instances
        return _cell(name), f"({value:.0f} instances)", "", count
    interval = "" if math.isnan(margin) else f"{max(value - margin, 0):.2f} to {min(value + margin, 100):.2f}"
    return _cell(name), f"{value:.2f}", interval, count


def _table(names: Sequence[str], rows: Rows) -> str:
    """A table in Markdown; cells are ready."""
    lines = [names, ["---"] * len(names), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _cell(text: str) -> str:
    """Text that stays in its cell of a table, and is no markup."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("`", "\\`")


def _code(text: str) -> str:
    """A path or a value as it is, in a cell or a line."""
    return f"`{' '.join(text.replace('`', ' ').split())}`".replace("|", "\\|")
