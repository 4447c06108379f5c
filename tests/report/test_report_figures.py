"""What stands on the axes of a report's plots."""

from __future__ import annotations

from raytune_m2f.report.figures import short_keys


def test_two_keys_that_end_alike_keep_their_whole_names() -> None:
    """Or Optuna's bars of importance, which are told apart by their label, would be drawn as one."""
    keys = ["SOLVER.BASE_LR", "MODEL.RESNETS.NORM", "MODEL.FPN.NORM"]
    assert short_keys(keys) == {
        "SOLVER.BASE_LR": "BASE_LR",
        "MODEL.RESNETS.NORM": "MODEL.RESNETS.NORM",
        "MODEL.FPN.NORM": "MODEL.FPN.NORM",
    }
