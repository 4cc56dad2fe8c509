"""What can be imported from the packages is what they promise, documented, and no more."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import types
from pathlib import Path
from typing import Any

import pytest

PACKAGES = ["feedline", "feedline.utils"]


def names(package: str) -> list[tuple[str, Any]]:
    module = importlib.import_module(package)
    return [(name, getattr(module, name)) for name in module.__all__]


PUBLIC = [
    pytest.param(value, id=f"{package}.{name}")
    for package in PACKAGES
    for name, value in names(package)
]
CLASSES = [
    pytest.param(value, id=f"{package}.{name}")
    for package in PACKAGES
    for name, value in names(package)
    if inspect.isclass(value)
]


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_sorted_and_names_nothing_twice(package: str) -> None:
    listed = importlib.import_module(package).__all__
    assert listed == sorted(set(listed))


@pytest.mark.parametrize("package", PACKAGES)
def test_all_names_everything_public_and_nothing_else(package: str) -> None:
    module = importlib.import_module(package)
    public = {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not isinstance(value, types.ModuleType)
        and getattr(value, "__module__", None) != "__future__"
        and name != "annotations"
    }
    assert public == set(module.__all__)


def test_the_engine_offers_these_names() -> None:
    listed = dict(names("feedline"))
    expected = {
        "Loader", "LoaderOptions", "LoaderStats", "PyDataset", "WorkerInfo",
        "get_worker_info", "LoaderError", "RemoteError", "BatchTimeoutError",
        "SkipLimitError", "Skipped", "has_hooks",
    }  # fmt: skip
    assert expected <= set(listed)


def test_every_error_is_public() -> None:
    errors = importlib.import_module("feedline.errors")
    assert set(errors.__all__) <= set(importlib.import_module("feedline").__all__)


@pytest.mark.parametrize("value", PUBLIC)
def test_a_public_name_is_documented_by_a_sentence(value: Any) -> None:
    # Not inspect.getdoc, which would accept what a base class says.
    first = (vars(value).get("__doc__") or value.__doc__ or "").strip().splitlines()
    assert first
    assert first[0][0].isupper()
    assert first[0].endswith((".", ":"))


@pytest.mark.parametrize("kind", CLASSES)
def test_every_public_method_and_property_is_documented(kind: type) -> None:
    for name, member in vars(kind).items():
        if name.startswith("_"):
            continue
        if isinstance(member, (types.FunctionType, property, classmethod)):
            assert inspect.getdoc(member), f"{kind.__qualname__}.{name}"


@pytest.mark.parametrize("value", PUBLIC)
def test_every_argument_and_return_of_a_public_name_is_typed(value: Any) -> None:
    functions = [value] if inspect.isfunction(value) else []
    if inspect.isclass(value):
        functions = [
            member
            for name, member in vars(value).items()
            if inspect.isfunction(member)
            and (name == "__init__" or not name.startswith("_"))
        ]
    for function in functions:
        signature = inspect.signature(function)
        for parameter in signature.parameters.values():
            if parameter.name != "self":
                assert parameter.annotation is not parameter.empty, function
        assert signature.return_annotation is not signature.empty, function


def test_everything_of_the_loader_after_the_dataset_is_given_by_name() -> None:
    from feedline import Loader

    parameters = list(inspect.signature(Loader).parameters.values())
    assert parameters[0].name == "dataset"
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters[1:])


def test_every_option_is_one_of_the_loader_s_and_has_its_line_in_the_docs() -> None:
    from feedline import Loader, LoaderOptions

    options = list(inspect.signature(Loader).parameters)[1:]
    assert set(options) == {field.name for field in dataclasses.fields(LoaderOptions)}
    page = (Path(__file__).parent.parent / "docs" / "options.md").read_text()
    for name in options:
        assert f"\n| `{name}` | " in page, name
        assert f"\n    {name}: " in (inspect.getdoc(Loader) or ""), name
        assert f"\n    {name}: " in (inspect.getdoc(LoaderOptions) or ""), name


def test_an_unknown_option_is_refused() -> None:
    from feedline import Loader

    with pytest.raises(TypeError, match="worker_count"):
        Loader([1], worker_count=3)  # type: ignore[call-arg]


def test_the_package_says_that_it_is_typed() -> None:
    from importlib.resources import files

    assert files("feedline").joinpath("py.typed").is_file()
