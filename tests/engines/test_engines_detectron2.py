"""The engine of detectron2 keeps the contract, and agrees with the native one (pytest -m detectron2)."""

from __future__ import annotations

import pytest

from raytune_m2f.config import Config
from raytune_m2f.engines import Engine, build_engine
from raytune_m2f.testing.engine_conformance import EngineConformance

pytestmark = [pytest.mark.detectron2, pytest.mark.filterwarnings("ignore")]
pytest.importorskip("detectron2", reason="detectron2 is not installed")


class TestDetectron2Engine(EngineConformance):
    @pytest.fixture
    def engine(self, tiny_config: Config) -> Engine:
        return build_engine(tiny_config.with_values({"TEST.SUBSET": 2, "ENGINE": "detectron2"}))
