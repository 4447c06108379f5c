"""Several workers learn what one learns: Ray Train with gloo, two processes."""

from __future__ import annotations

from pathlib import Path

import pytest

from raytune_m2f.config import Config
from raytune_m2f.errors import InputError
from raytune_m2f.launch.trial import run_training
from raytune_m2f.training.reports import read_reports

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Ray's own
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.mark.usefixtures("ray_cluster")
def test_two_ray_train_workers_give_the_loss_curve_of_one(any_config: Config, tmp_path: Path) -> None:
    # Adam's first steps are the sign of the gradient: at a high rate they amplify float noise where it is nearly 0
    config = any_config.with_values({"SOLVER.BASE_LR": 1e-5, "TEST.EVAL_PERIOD": 1}, source="test")
    run_training(config, tmp_path / "one")
    last = run_training(config, tmp_path / "two", workers=2, gpus_per_worker=0)
    one, two = read_reports(tmp_path / "one"), read_reports(tmp_path / "two")
    assert [report["workers"] for report in one + two] == [1] * 4 + [2] * 4
    assert [report["micro_batch"] for report in two] == [2] * 4
    for alone, shared in zip(one, two, strict=True):
        for name in ("loss", "loss_ce", "loss_color", "loss_texture", "loss_mask", "loss_dice"):
            assert shared[name] == pytest.approx(alone[name], rel=1e-4), (shared["iteration"], name)
        assert shared["images"] == alone["images"] == 6
        # an instance whose mask rounds to the other side of an IoU threshold: 1 of 5 in one of 3 categories, 1 of 10
        assert shared["segm/AP"] == pytest.approx(alone["segm/AP"], abs=3 * 100 / 5 / 3 / 10)
    assert last["iteration"] == 4


@pytest.mark.usefixtures("ray_cluster")
def test_more_workers_than_there_is_room_for_are_refused(tiny_config: Config, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"--workers 3 need 3 CPUs and 0 GPUs; the cluster has 2 and 0"):
        run_training(tiny_config, tmp_path, workers=3)
