"""A logger that cannot be written is refused before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

import raytune_m2f as rm
from raytune_m2f.config import Config
from raytune_m2f.errors import ConfigError, MissingDependencyError
from raytune_m2f.loggers import names
from raytune_m2f.loggers.names import LoggerName, require_loggers


@pytest.mark.parametrize("name", names.PACKAGES)
def test_a_missing_package_is_refused_before_anything_starts(
    name: LoggerName, tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(names, "find_spec", lambda package: None)
    config = tiny_config.with_values({"LOGGERS": [name]})
    with pytest.raises(MissingDependencyError, match=rf"pip install 'raytune-m2f\[{name}\]'"):
        rm.train(config, tmp_path / "run")
    with pytest.raises(MissingDependencyError, match=name):
        rm.tune(config, "demo", tmp_path / "study", trials=1)
    assert not list(tmp_path.iterdir())


def test_mlflow_on_a_store_needs_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        require_loggers(["mlflow"], "s3://bucket/studies/fruits")
    require_loggers(["mlflow"], "studies/fruits")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://head:5000")
    require_loggers(["mlflow"], "s3://bucket/studies/fruits")


def test_wandb_offline_needs_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    require_loggers(["wandb"], "studies/fruits")


def test_wandb_online_needs_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "a key")
    require_loggers(["wandb"], "studies/fruits")


def test_no_other_logger_is_known(tiny_config: Config) -> None:
    with pytest.raises(ConfigError, match=r"LOGGERS.*tensorboar.*tensorboard"):
        tiny_config.with_values({"LOGGERS": ["tensorboar"]})
