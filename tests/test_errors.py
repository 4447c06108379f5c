"""The tree of errors: what the command line returns, and that the tree in the docstring is the tree."""

from __future__ import annotations

import re

import pytest

from raytune_m2f import errors
from raytune_m2f.errors import InputError, RaytuneM2FError, did_you_mean, join_problems


def subclasses(root: type[RaytuneM2FError]) -> set[type[RaytuneM2FError]]:
    found = {root}
    for child in root.__subclasses__():
        found |= subclasses(child)
    return {error for error in found if error.__module__ == errors.__name__}


def drawn_tree() -> dict[str, str | None]:
    """Class name -> the name that it stands under in the module's docstring."""
    parents: dict[str, str | None] = {}
    open_names: list[tuple[int, str]] = []
    for indent, name in re.findall(r"^( +)(\w+Error)\b", errors.__doc__ or "", flags=re.MULTILINE):
        while open_names and open_names[-1][0] >= len(indent):
            open_names.pop()
        parents[name] = open_names[-1][1] if open_names else None
        open_names.append((len(indent), name))
    return parents


def test_docstring_draws_the_tree_as_it_is() -> None:
    real = {error.__name__: error.__bases__[0].__name__ for error in subclasses(RaytuneM2FError)}
    assert drawn_tree() == {**real, RaytuneM2FError.__name__: None}


ALL = sorted(subclasses(RaytuneM2FError), key=str)


@pytest.mark.parametrize("error", ALL)
def test_exit_code_tells_whose_fault_it_is(error: type[RaytuneM2FError]) -> None:
    assert error.exit_code == (2 if issubclass(error, InputError) else 1)


@pytest.mark.parametrize("error", ALL)
def test_every_error_says_what_it_is_for(error: type[RaytuneM2FError]) -> None:
    assert "__doc__" in vars(error)
    assert error.__doc__


def test_message_is_kept() -> None:
    assert str(errors.ConfigError("a.yaml: no key X")) == "a.yaml: no key X"


def test_did_you_mean_names_the_closest_option_or_nothing() -> None:
    assert did_you_mean("SOLVR", ["SEED", "SOLVER"]) == "; did you mean SOLVER?"
    assert did_you_mean("subcat1", ["subcat_1"], quote=True) == "; did you mean 'subcat_1'?"
    assert did_you_mean(3, [4.5, True]) == did_you_mean("a", []) == ""


def test_problems_are_joined_in_one_message() -> None:
    assert join_problems(["one"]) == "one"
    assert join_problems(["one", "two"]) == "2 problems:\n  one\n  two"
