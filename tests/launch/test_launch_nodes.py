"""Nodes that are announced to go, and nodes that are lost, with Ray's answers scripted."""

from __future__ import annotations

from pathlib import Path

import pytest
from patience import PATIENCE_S

from raytune_m2f.config import Config
from raytune_m2f.launch.nodes import NODE, SAVE_AGAIN_S, Announcement, is_lost, noted_node, own_node
from raytune_m2f.launch.place import Place
from raytune_m2f.training import checkpoint
from raytune_m2f.training.reports import TrialContext
from raytune_m2f.training.worker import train_trial


class Draining:
    """What Ray answers, one answer after the other, the last again and again; an error is raised."""

    def __init__(self, *answers: set[str] | Exception) -> None:
        self.answers = list(answers)

    def __call__(self) -> frozenset[str]:
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return frozenset(answer)


def test_only_the_own_nodes_count() -> None:
    draining = Draining({"c"})
    with Announcement(["a", "b"], draining=draining, poll=0.01) as announced:
        assert not announced.wait(0.1)
        assert not announced.due()
        draining.answers = [{"b", "c"}]
        assert announced.wait(PATIENCE_S)
        assert announced.due()


def test_a_question_that_ray_cannot_answer_is_asked_again() -> None:
    draining = Draining(ConnectionError("the head restarts"), {"a"})
    with Announcement(["a"], draining=draining, poll=0.01) as announced:
        assert announced.wait(PATIENCE_S)
    assert announced.due()


def test_a_checkpoint_is_due_at_once_and_then_now_and_then() -> None:
    now = 1000.0
    announced = Announcement([], clock=lambda: now)
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


def test_a_node_is_lost_if_ray_says_so() -> None:
    nodes = [{"NodeID": "a", "Alive": True}, {"NodeID": "b", "Alive": False}, {"NodeID": "c", "Alive": True}]
    assert [is_lost(node, known=lambda: nodes, draining=Draining({"c"})) for node in "bcd"] == [True, True, True]


@pytest.mark.usefixtures("ray_cluster")
@pytest.mark.filterwarnings("ignore:::ray")
def test_a_node_that_answers_is_not_lost() -> None:
    assert not is_lost(own_node())


def test_where_a_trial_ran(tmp_path: Path) -> None:
    assert noted_node(tmp_path) is None
    Place.at(tmp_path).note(NODE, "a")
    assert noted_node(tmp_path) == "a"
    (tmp_path / NODE).write_text("")  # its process was killed right then
    assert noted_node(tmp_path) is None
