"""Verify an export: a fresh process loads its directory, and evaluates it on the test set that scored its trial.

A fresh process knows the files alone. What this one knows, a module of the user's that is imported or a weight that is
still in memory, would hide that they lack it.
"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TextIO

import torch

from raytune_m2f.engines import build_engine
from raytune_m2f.errors import DatasetError, InputError, ModelError, RaytuneM2FError, VerificationError
from raytune_m2f.evaluation import CocoEvaluator
from raytune_m2f.export import load_export
from raytune_m2f.export_files import MODEL, WEIGHTS, read_pth, read_weights
from raytune_m2f.progress import Progress, nobody
from raytune_m2f.scores import Scores
from raytune_m2f.storage.files import newest
from raytune_m2f.training.objective import Objective

TOLERANCE = 0.1
"""Of a metric in percent: more than another processor makes of the same weights, less than other weights do."""
SKIP = "or export without this check, by --skip-verify, which the model card then says"

Pair = tuple[float, float]
"""A metric as the trial reported it, and as the export has it."""


@dataclass(frozen=True)
class Check:
    """What an export is held against.

    Attributes:
        objectives: what the trial was made for; of their keys those are compared that an evaluation gives.
        recorded: the first objective in the study's record, by the iteration of its report.
        trust: whether Python files that the configuration names (DATASETS.IMPORT) may run.
        progress: told how many test images are done.
        reasons: gives lines that say why a metric may differ.
    """

    objectives: tuple[Objective, ...]
    recorded: Mapping[int, float]
    trust: bool = False
    progress: Progress = nobody
    reasons: Callable[[], Iterable[str]] = tuple

    def __call__(self, folder: Path, report: Mapping[str, Any], source: str) -> tuple[dict[str, Any], dict[str, Pair]]:
        """Evaluate the export in `folder` again.

        Args:
            report: of the exported checkpoint.
            source: the checkpoint, for errors.

        Returns:
            Its scores (`Scores.as_dict`), and what was compared.

        Raises:
            VerificationError: a metric differs by more than `TOLERANCE`, or the process died.
            InputError: the data are not there, or not those of the training, or may not be read without trust.
        """
        self._require_recorded(report, source)
        scores = in_fresh_process(folder, int(report["iteration"]), trust=self.trust, progress=self.progress)
        pairs = compared(report, scores["metrics"], self.objectives)
        if not pairs:
            raise VerificationError(
                f"{source} reports no metric that an evaluation gives, so its export cannot be verified: export "
                f"another one (--trial, --iteration), {SKIP}."
            )
        differ = {name: pair for name, pair in pairs.items() if not abs(pair[1] - pair[0]) <= TOLERANCE}
        if differ:
            words = ", ".join(f"{name} {now:.2f} instead of {then:.2f}" for name, (then, now) in differ.items())
            reasons = [f"\n  {line}" for line in self.reasons()]
            raise VerificationError(
                f"the weights of {source} do not score what their trial reported at iteration {report['iteration']}: "
                f"evaluated again in a fresh process, on {scores['images']} test images, they have {words} (allowed: "
                f"{TOLERANCE} more or less). Nothing was exported.{''.join(reasons)}\n"
                "The checkpoint or the data have changed since. Bring them back, export another one (--trial, "
                f"--iteration), {SKIP}."
            )
        return scores, pairs

    def _require_recorded(self, report: Mapping[str, Any], source: str) -> None:
        """Raises VerificationError if the study remembers another report of this iteration than the checkpoint has."""
        then = self.recorded.get(int(report["iteration"]))
        if then is None:
            return
        objective = self.objectives[0]
        now = objective.value(report)
        if not abs(now - then) <= TOLERANCE:
            raise VerificationError(
                f"{source} says that it had {objective.text} {now:.2f} at iteration {report['iteration']}, and the "
                f"record of its study {then:.2f}: it is another trial's, or was changed. Nothing was exported. Export "
                f"another one (--trial, --iteration), {SKIP}."
            )


def compared(
    report: Mapping[str, Any], metrics: Mapping[str, float | None], objectives: Iterable[Objective]
) -> dict[str, Pair]:
    """What the trial reported and the export has: the keys of the objectives, AP, and AP with all subcategories right.

    NaN is for a metric that the export does not have any more.
    """
    tasks = dict.fromkeys(name.partition("/")[0] for name in metrics if name.endswith("/AP"))
    keys = [key for objective in objectives for key in objective.keys]
    keys += [f"{task}/{name}" for task in tasks for name in ("AP", "AP_all")]
    both = [key for key in dict.fromkeys(keys) if key in metrics and isinstance(report.get(key), int | float)]
    found = {key: metrics[key] for key in both}
    return {key: (float(report[key]), math.nan if value is None else value) for key, value in found.items()}


def evaluate_again(folder: Path, iteration: int, *, trust: bool, progress: Progress) -> dict[str, Any]:
    """Load an export and score it as its training scored the checkpoint: the same images, in the same batches.

    Args:
        iteration: of the checkpoint; before the last one, TEST.SUBSET images were scored.
        progress: told how many images are done.

    Returns:
        `Scores.as_dict`.

    Raises:
        ModelError: files are missing or do not fit one another.
        DatasetError, ConfigError: the test set is not there, is wrong, or has other labels.
    """
    _require_same_weights(folder)
    exported = load_export(folder, torch.device("cpu"), trust=trust)
    config = exported.config
    # an engine wants a training set: as nothing trains here, whoever has the test set alone can verify
    engine = build_engine(config.with_values({"DATASETS.TRAIN": list(config.DATASETS.TEST[:1])}))
    if engine.categories != exported.categories:
        raise DatasetError("the test set has other categories or subcategories now than the model was trained on.")
    subset = config.TEST.SUBSET > 0 and iteration < config.SOLVER.MAX_ITER
    evaluator = engine.evaluator(subset=subset)
    assert isinstance(evaluator, CocoEvaluator)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    learner = engine.learner()
    learner.model.load_state_dict(exported.model.state_dict())
    learner.model.to(device).eval()
    done, total = 0, len(evaluator.dataset.records)
    with torch.no_grad():
        for samples in engine.test_batches(rank=0, world_size=1, subset=subset):
            evaluator.process(samples, [found.to("cpu") for found in learner.predict(samples)])
            done += len(samples)
            progress(done, total)
    evaluator.evaluate()
    return Scores(evaluator.evaluation).as_dict()


def _require_same_weights(folder: Path) -> None:
    """Raises ModelError unless both files of weights hold the same."""
    first, second = read_weights(folder), read_pth(folder)
    if first.keys() != second.keys() or not all(torch.equal(first[name], second[name]) for name in first):
        raise ModelError(f"{WEIGHTS} and {MODEL} of {newest(folder, MODEL).parent} hold different weights.")


# The fresh process


def in_fresh_process(folder: Path, iteration: int, *, trust: bool, progress: Progress) -> dict[str, Any]:
    """`evaluate_again` in a process of its own.

    Raises:
        InputError: what it raised; the message says how to go on.
        VerificationError: the work failed in it, or it died.
    """
    # modules are found where they are found here: not in the present directory, unless this process looks there too
    code = f"import sys; sys.path[:] = {sys.path!r}; from raytune_m2f.export_check import main; main()"
    words = [sys.executable, "-c", code, str(folder), str(iteration), str(int(trust))]
    answer: dict[str, Any] = {}
    with tempfile.TemporaryFile() as complaints:
        with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=complaints, text=True, encoding="utf-8") as process:
            try:
                assert process.stdout is not None
                for line in process.stdout:
                    answer = json.loads(line)
                    if "done" in answer:
                        progress(answer["done"], answer["total"])
                code_of_exit = process.wait()
            finally:  # Ctrl-C
                process.kill()
        if "scores" not in answer and "error" not in answer:
            raise VerificationError(
                f"the fresh process that evaluates the export ended with exit code {code_of_exit}, nothing was exported"
                f": {_last_words(complaints)}\nGive it more memory or mend that, {SKIP}."
            )
    if "error" in answer:
        kind = InputError if answer["input"] else VerificationError
        raise kind(
            f"the export could not be evaluated again, nothing was exported: {answer['error']}\n"
            f"Bring the test set back to where the configuration has it, {SKIP}."
        )
    scores: dict[str, Any] = answer["scores"]
    return scores


def _last_words(complaints: IO[bytes]) -> str:
    complaints.seek(0)
    lines = complaints.read().decode("utf-8", "replace").strip().splitlines()
    return lines[-1] if lines else "it said nothing, as when the system ends it for want of memory"


def main() -> None:
    """The fresh process: a line of JSON for each batch, then the scores or an error."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no answer
    folder, iteration, trust = sys.argv[1:]

    def progress(done: int, total: int, /, **facts: Any) -> None:
        _tell(answers, {"done": done, "total": total})

    try:
        scores = evaluate_again(Path(folder), int(iteration), trust=trust == "1", progress=progress)
    except (RaytuneM2FError, OSError) as error:
        _tell(answers, {"error": str(error), "input": isinstance(error, InputError)})
    else:
        _tell(answers, {"scores": scores})


def _tell(answers: TextIO, content: dict[str, Any]) -> None:
    print(json.dumps(content), file=answers, flush=True)
