"""Nodes that are announced to go, and nodes that are lost, with Ray's answers scripted."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray
from patience import PATIENCE_S

from raytune_m2f.config import Config
from raytune_m2f.launch import nodes as preemption
from raytune_m2f.launch.nodes import SAVE_AGAIN_S, Announcement, is_lost, noted_node
from raytune_m2f.training import checkpoint
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.worker import train_trial


def draining(monkeypatch: pytest.MonkeyPatch, *nodes: str) -> None:
    monkeypatch.setattr(preemption, "draining_nodes", lambda: frozenset(nodes))


def test_only_the_own_nodes_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "POLL_S", 0.01)
    draining(monkeypatch, "c")
    with Announcement(["a", "b"]) as announced:
        announced._thread.join(0.1)
        assert announced._thread.is_alive()
        assert not announced.due()
        draining(monkeypatch, "b", "c")
        announced._thread.join(PATIENCE_S)
        assert announced.due()


def test_a_question_that_ray_cannot_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preemption, "POLL_S", 0.01)
    answers = [frozenset({"a"})]

    def answer() -> frozenset[str]:
        if len(answers) == 1:
            answers.append(frozenset())
            raise ConnectionError("the head restarts")
        return answers[0]

    monkeypatch.setattr(preemption, "draining_nodes", answer)
    with Announcement(["a"]) as announced:
        announced._thread.join(PATIENCE_S)
    assert announced.due()


def test_a_checkpoint_is_due_at_once_and_then_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr("raytune_m2f.launch.nodes.time.monotonic", lambda: now)
    announced = Announcement([])
    assert not announced.due()
    announced.announce()
    assert [announced.due(), announced.due()] == [True, False]
    now += SAVE_AGAIN_S - 1
    assert not announced.due()
    now += 1
    assert [announced.due(), announced.due()] == [True, False]


def test_training_writes_a_checkpoint_when_it_is_asked_to(tmp_path: Path, tiny_config: Config) -> None:
    config = tiny_config.with_values({"SOLVER.MAX_ITER": 3, "TEST.EVAL_PERIOD": 0}, source="test")
    asked = iter([True, False])
    found: list[int] = []

    def save_now() -> bool:
        folder = tmp_path / "checkpoints"
        found.append(len(checkpoint.newest_first(folder)))
        return next(asked)

    train_trial(config, TrialContext(tmp_path, save_now=save_now))
    assert len(found) == 2  # the third iteration is the last, which is kept in any case
    iterations = [path.name for path in checkpoint.newest_first(tmp_path / "checkpoints")]
    assert iterations == [checkpoint.iteration_file(tmp_path, iteration).name for iteration in (3, 1)]


def test_a_node_is_lost_if_ray_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [{"NodeID": "a", "Alive": True}, {"NodeID": "b", "Alive": False}, {"NodeID": "c", "Alive": True}]
    monkeypatch.setattr(ray, "nodes", lambda: nodes)
    draining(monkeypatch, "c")
    assert [is_lost(node) for node in "bcd"] == [True, True, True]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore:::ray")
def test_a_node_that_answers_is_not_lost() -> None:
    assert not is_lost(preemption.own_node())


def test_where_a_trial_ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert noted_node(tmp_path) is None
    monkeypatch.setattr(preemption, "own_node", lambda: "a")
    preemption.note_node(tmp_path)
    assert noted_node(tmp_path) == "a"
    (tmp_path / preemption.NODE).write_text("")  # its process was killed right then
    assert noted_node(tmp_path) is None
