"""Does it matter what a study maximises: `segm/AP`, blind to subcategories, or `segm/AP_all`, which needs all labels?

    python -m benchmarks.objective --output /tmp/objective [--seeds 0 1 2] [--trials 8] [--space demo]
        [--arms AP AP_all whole] [KEY=VALUE ...]

For each seed (of the data, the search and the training) the demo's shapes, and three studies of the demo's
configuration, one trial at a time on one core, so that equal points are equal trainings:

    AP, AP_all   as a user would search (TPE, ASHA), and they differ in the metric alone;
    whole        random points, none stopped: what each objective would choose of the very same trials.

Models are scored on fresh shapes, TEST_IMAGES of another seed. The first two arms answer what the objective brings
in the end, the model of one against the model of the other, image by image. The last one says why: how alike the two
objectives rank trials, how well either ranks what the fresh shapes say, and what choosing by it costs.

In OUTPUT are for each seed data/, test/, the studies and result.json, and for all seeds table.md. A seed that is there
already is read, not run; a study that was broken off goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import shlex
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from scipy import stats

import raytune_m2f as rm
from benchmarks.real import facts_of_this_machine
from raytune_m2f.config import load_config
from raytune_m2f.config.load import shipped_configs
from raytune_m2f.data import generate_shapes
from raytune_m2f.drive.runner import run_study
from raytune_m2f.evaluation.bootstrap import differences, intervals
from raytune_m2f.evaluation.measures import Measures
from raytune_m2f.predict import evaluate_export
from raytune_m2f.study.directory import StudyDirectory
from raytune_m2f.study.layout import has_begun, new_study
from raytune_m2f.study.settings import Budget, EarlyStopping, Resources, StudySettings
from raytune_m2f.study.space import load_space
from raytune_m2f.training.reports import read_reports

AP, ALL = OBJECTIVES = ("segm/AP", "segm/AP_all")
JOINT = ("segm/AP_joint_color", "segm/AP_joint_texture")
SHOWN = (*OBJECTIVES, *JOINT)
ARMS = {"AP": AP, "AP_all": ALL, "whole": AP}
"""The studies, and what each maximises; in `whole` that decides nothing but the checkpoint of a trial."""
TEST_IMAGES, TEST_SEED = 300, 10_000
DRAWS = 500
Scores = dict[str, float]
Column = Sequence[float | None]
Trial = dict[str, Any]
""""number", "state", "values", "reports" and, where it was scored on fresh shapes, "test"."""


# One seed


def run_seed(
    root: Path, seed: int, arms: Sequence[str], trials: int, space: str, overrides: Sequence[str]
) -> dict[str, Any]:
    """Everything of a seed as JSON: what each study reported and chose, and what fresh shapes say of it."""
    if not (root / "demo.yaml").exists():  # last, so that a seed that was broken off makes its data again
        generate_shapes(root / "data", seed=seed)
        generate_shapes(root / "test", train_images=0, val_images=TEST_IMAGES, seed=TEST_SEED + seed)
        (root / "demo.yaml").write_bytes(shipped_configs()["demo"].read_bytes())
    result: dict[str, Any] = {"studies": {}}
    best: dict[str, Measures] = {}
    for arm in arms:
        run_arm(root, arm, seed, trials, space, overrides)
        result["studies"][arm], best[arm] = read_arm(root, arm)
    if "AP" in best and "AP_all" in best:
        apart = differences(best["AP_all"], best["AP"], DRAWS)
        result["differences"] = {
            name: {
                "difference": apart[name].difference.value,
                "error": apart[name].difference.error,
                "better": apart[name].better,
            }
            for name in SHOWN
        }
    return result


def run_arm(root: Path, arm: str, seed: int, trials: int, space: str, overrides: Sequence[str]) -> None:
    """One study, to the end of its budget; one that has begun goes on."""
    study = root / arm
    if not (study.exists() and has_begun(StudyDirectory.at(study))):
        config = load_config(root / "demo.yaml", [*overrides, f"SEED={seed}"])
        whole = arm == "whole"
        settings = StudySettings(
            budget=Budget(trials=trials),
            metrics=(ARMS[arm],),
            sampler="random" if whole else "tpe",
            seed=seed,
            early_stopping=EarlyStopping(method="none" if whole else "asha"),
            resources=Resources(concurrent=1, cpus_per_worker=1),
            keep_checkpoints=trials,
        )
        new_study(study, config, load_space(space, config), settings).create()
    run_study(study)


def read_arm(root: Path, arm: str) -> tuple[dict[str, Any], Measures]:
    """What the trials of a study reported, and what they score on the fresh shapes; and the measures of its best one.

    Prediction takes as long as a short training: of the searches only what either objective chooses is scored.

    Raises:
        RuntimeError: the study's best trial is not the one that its reports say.
    """
    study = rm.Study(root / arm)
    status = study.status()
    trials: list[Trial] = [
        {
            "number": trial.number,
            "state": trial.state,
            "values": trial.values,
            "reports": [plain(report) for report in read_reports(Path(trial.directory))],
        }
        for trial in status.trials
        if trial.checkpoint is not None
    ]
    best = choice(trials, ARMS[arm])
    if best["number"] != status.best:
        raise RuntimeError(f"{root / arm}: trial {status.best} is its best, its reports say {best['number']}")
    wanted = trials if arm == "whole" else [choice(trials, name) for name in OBJECTIVES]
    fresh = {trial["number"]: measured(study, trial["number"], root / "test") for trial in wanted}
    for trial in wanted:
        trial["test"] = plain({n: float(v[0]) for n, v in values_of(fresh[trial["number"]]).items()})
    own = {"val": measured(study, best["number"], root / "data"), "test": fresh[best["number"]]}
    errors = {where: {n: i.error for n, i in intervals(m, DRAWS).items() if n in SHOWN} for where, m in own.items()}
    iterations = sum(trial["reports"][-1]["iteration"] for trial in trials)
    return {"trials": trials, "iterations": iterations, "errors": errors}, own["test"]


def measured(study: rm.Study, number: int, data: Path) -> Measures:
    """The best checkpoint of a trial on `val` of a folder of shapes."""
    with tempfile.TemporaryDirectory() as folder:
        model = study.export(Path(folder) / "model", trial=number)
    evaluator = evaluate_export(model.exported, data / "val.json", data / "val")
    evaluator.evaluate()
    assert evaluator.evaluation is not None
    return evaluator.evaluation.measures


def values_of(measures: Measures) -> Mapping[str, Any]:
    return measures.values(measures.once)


def plain(report: Mapping[str, Any]) -> Scores:
    """The numbers of a report that are shown."""
    return {key: value for key, value in report.items() if key in ("iteration", *SHOWN)}


# What the trials of a study say


def best_of(trial: Mapping[str, Any], objective: str) -> float:
    """A trial is scored by its best report."""
    return max(float(report[objective]) for report in trial["reports"])


def choice(trials: Sequence[Trial], objective: str) -> Trial:
    """The trial that a study with this objective would have kept; of equal ones the first."""
    return max(trials, key=lambda trial: best_of(trial, objective))


def ended(trials: Iterable[Trial]) -> list[Trial]:
    """Those that were trained to the end: values before it are not comparable with theirs."""
    return [trial for trial in trials if trial["state"] == "complete"]


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's; None of fewer than three, or where all are equal."""
    if len(a) < 3 or len(set(a)) == 1 or len(set(b)) == 1:
        return None
    return float(stats.spearmanr(a, b).statistic)


def of_study(arm: Mapping[str, Any]) -> dict[str, float | None]:
    """Rank correlations over its trials that came to their end, and what either choice scores on the fresh shapes."""
    trials: list[Trial] = arm["trials"]
    whole = ended(trials)
    val = {name: [best_of(trial, name) for trial in whole] for name in OBJECTIVES}
    by = {name: choice(trials, name) for name in OBJECTIVES}
    figures: dict[str, float | None] = {
        "iterations": arm["iterations"],
        "trials to the end": len(whole),
        "ranks: AP and AP_all": rank_correlation(val[AP], val[ALL]),
    }
    if all("test" in trial for trial in trials):
        test = {name: [trial["test"][name] for trial in whole] for name in OBJECTIVES}
        figures["ranks: fresh AP and fresh AP_all"] = rank_correlation(test[AP], test[ALL])
        for name in OBJECTIVES:
            for fresh in OBJECTIVES:
                figures[f"ranks: {short(name)} and fresh {short(fresh)}"] = rank_correlation(val[name], test[fresh])
            figures[f"fresh {short(name)}, best of all trials"] = max(trial["test"][name] for trial in trials)
    figures |= {f"trial that {short(name)} chooses": by[name]["number"] for name in OBJECTIVES}
    for fresh in SHOWN:
        figures |= {f"fresh {short(fresh)}, chosen by {short(name)}": by[name]["test"][fresh] for name in OBJECTIVES}
        figures[f"fresh {short(fresh)}, the second less the first"] = by[ALL]["test"][fresh] - by[AP]["test"][fresh]
    for name in OBJECTIVES:
        for where, what in (("val", "60 images"), ("test", "fresh shapes")):
            figures[f"standard error of {short(name)}, {what}"] = arm["errors"][where][name]
    return figures


# All seeds


def table(results: Mapping[int, Mapping[str, Any]], facts: Mapping[str, str]) -> str:
    """Markdown: what was run, model against model on the fresh shapes, then the studies, with a column a seed."""
    lines = [f"{name}: {value}  " for name, value in facts.items()]
    arms = list(next(iter(results.values()))["studies"])
    for arm in (arm for arm in arms if arm != "whole"):
        lines += ["", f"On fresh shapes, the best trial of the study for {ARMS[arm]}:", ""]
        scores = [choice(result["studies"][arm]["trials"], ARMS[arm])["test"] for result in results.values()]
        lines += _table(results, {short(name): [score[name] for score in scores] for name in SHOWN})
    apart = [result["differences"] for result in results.values() if "differences" in result]
    if apart:
        lines += ["", "Difference, AP_all's model less AP's ± its standard error over the images:", ""]
        lines += _table(
            results,
            {short(name): [each[name]["difference"] for each in apart] for name in SHOWN},
            {short(name): [each[name]["error"] for each in apart] for name in SHOWN},
        )
    for arm in arms:
        lines += ["", f"The trials of the study {arm}:", ""]
        figures = [of_study(result["studies"][arm]) for result in results.values()]
        lines += _table(results, {name: [each[name] for each in figures] for name in figures[0]})
    lines += ["", "± in the last column is half the interval of 95 % of the mean over seeds (Student's t)."]
    return "\n".join(lines) + "\n"


def _table(
    seeds: Iterable[int], rows: Mapping[str, Column], errors: Mapping[str, Column] | None = None
) -> Iterator[str]:
    heads = [f"seed {seed}" for seed in seeds]
    yield _row("", *heads, "mean ± 95 %")
    yield "|---" * (len(heads) + 2) + "|"
    for name, values in rows.items():
        cells = [_text(value) for value in values]
        if errors is not None:
            cells = [f"{cell} ± {_text(error)}" for cell, error in zip(cells, errors[name], strict=True)]
        yield _row(name, *cells, mean_with_interval([value for value in values if isinstance(value, float)]))


def mean_with_interval(values: Sequence[float]) -> str:
    if len(values) < 2:
        return "-"
    error = statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.fmean(values):.2f} ± {float(stats.t.ppf(0.975, len(values) - 1)) * error:.2f}"


def short(name: str) -> str:
    return name.removeprefix("segm/")


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def _text(value: float | None) -> str:
    return "-" if value is None else str(value) if isinstance(value, int) else f"{value:.2f}"


def main(words: Sequence[str] | None = None) -> None:
    words = sys.argv[1:] if words is None else list(words)
    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--trials", type=int, default=8, help="of each study")
    parser.add_argument("--space", default="demo", help="a name or a file")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS), help="the studies; by default all")
    arguments = parser.parse_args([word for word in words if word not in overrides])
    settings = {"arms": arguments.arms, "trials": arguments.trials, "space": arguments.space, "overrides": overrides}
    facts = facts_of_this_machine()
    results: dict[int, dict[str, Any]] = {}
    for seed in arguments.seeds:
        root: Path = arguments.output / f"seed-{seed}"
        root.mkdir(parents=True, exist_ok=True)
        file = root / "result.json"
        if not file.exists():
            found = run_seed(root, seed, **settings)
            file.write_text(json.dumps({**settings, **facts, **found}), encoding="utf-8")
        results[seed] = json.loads(file.read_bytes())
        if (other := {key: results[seed].get(key) for key in settings}) != settings:
            parser.error(f"{file} is of other settings, {other}: give another --output, or the same settings")
        command = shlex.join(["python", "-m", "benchmarks.objective", *words])
        text = table(results, {"command": command, **{key: results[seed][key] for key in facts}})
        (arguments.output / "table.md").write_text(text, encoding="utf-8")
    print(text, arguments.output / "table.md", sep="\n", flush=True)


if __name__ == "__main__":
    main()
