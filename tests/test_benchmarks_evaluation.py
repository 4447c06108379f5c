"""The benchmark of a whole evaluation: made-up outputs that a network could give, and every stage is run."""

from __future__ import annotations

import torch

from benchmarks.evaluation import HEADS, QUERIES, STAGES, Evaluation, Scene, differences


def test_a_scene_is_the_same_each_time() -> None:
    first, again = (Scene(3).outputs() for _ in range(2))
    assert torch.equal(first["mask_features"], again["mask_features"])
    assert not torch.equal(first["pred_logits"], Scene(4).outputs()["pred_logits"])


def test_every_stage_is_run() -> None:
    evaluation = Evaluation(2)
    with torch.no_grad():
        times = evaluation.process(0, 2) | evaluation.evaluate()
    run = evaluation.found()
    assert times.keys() == set(STAGES)
    assert len(run["results"]) == 2 * QUERIES
    assert 10 < run["metrics"]["segm/AP"] < 90  # some are found, and neither all nor well
    assert all(run["metrics"][f"{head}/matched"] > 0 for head in HEADS)

    changed = {**run, "results": [(run["results"][0][0] + 1, run["results"][0][1] + 0.5), *run["results"][1:]]}
    assert differences(run, run).startswith(
        "200 instances: masks that differ 0, that changed places 0; scores by up to 0"
    )
    assert "masks that differ 1, that changed places 1; scores by up to 5.0e-01" in differences(run, changed)
    swapped = {**run, "results": [run["results"][1], run["results"][0], *run["results"][2:]]}
    assert "masks that differ 0, that changed places 2" in differences(run, swapped)
