"""Who knows an engine's keys registers with the configuration; detectron2's engine does when it is imported."""

from __future__ import annotations

import subprocess
import sys

from raytune_m2f.config.keys import complete, register_keys

SCRIPT = """
import sys
sys.modules["detectron2"] = None  # importing it now raises ImportError
from raytune_m2f.config import Config
from raytune_m2f.errors import MissingDependencyError
assert "raytune_m2f.engines" not in sys.modules
try:
    Config.from_dict({"ENGINE": "detectron2", "MODEL": {"META_ARCHITECTURE": "GeneralizedRCNN"}})
except MissingDependencyError as error:
    print(error)
"""


def test_the_configuration_finds_the_engine_that_nobody_has_imported() -> None:
    ran = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert "ENGINE: detectron2 needs detectron2, which cannot be imported here" in ran.stdout
    assert "Install it: pip install" in ran.stdout


def test_a_registered_engine_completes_the_values() -> None:
    register_keys("of_this_test", lambda values, own: ({**values, "A": 1}, [("B", f"not in {sorted(own)}")]))
    assert complete("of_this_test", {"C": 2}, ["D"]) == ({"A": 1, "C": 2}, [("B", "not in ['D']")])
