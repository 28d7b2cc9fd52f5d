"""The public face: a few names, sorted, each of them the thing itself, none defined here."""

from __future__ import annotations

import ast
import inspect
from pathlib import Path

import pytest

import fleetmill

SOURCE = Path(fleetmill.__file__)


def test_the_names_are_sorted_and_few() -> None:
    assert fleetmill.__all__ == sorted(fleetmill.__all__)
    assert len(set(fleetmill.__all__)) == len(fleetmill.__all__) <= 25


@pytest.mark.parametrize("name", fleetmill.__all__)
def test_each_name_is_there_has_a_docstring_and_is_defined_elsewhere(name: str) -> None:
    found = getattr(fleetmill, name)

    assert inspect.getdoc(found)
    assert found.__module__.startswith("fleetmill.")


def test_the_face_and_its_types_name_the_same_things() -> None:
    tree = ast.parse(SOURCE.read_text())
    guarded = next(n for n in tree.body if isinstance(n, ast.If))
    typed = {}
    for node in guarded.body:
        assert isinstance(node, ast.ImportFrom)
        typed |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}

    assert sorted(typed) == fleetmill.__all__
    for name, (module, inner) in typed.items():
        found = getattr(fleetmill, name)
        assert found.__name__ == inner
        assert found.__module__ == module or found.__module__.startswith(f"{module}.")


def test_the_face_defines_nothing() -> None:
    tree = ast.parse(SOURCE.read_text())
    defined = [n.name for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef))]

    assert sorted(defined) == ["__dir__", "__getattr__"]


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        fleetmill.nonsense  # noqa: B018
