"""The public namespace: what can be imported, and that both clients have the same methods."""

from __future__ import annotations

import inspect
import pkgutil

import pytest

import setsuden.client
from setsuden.client import AsyncClient, AsyncHandle, Client, Handle
from setsuden.schemas import errors
from setsuden.testing import FakeAsyncClient, FakeClient


def test_every_error_can_be_imported_from_the_client() -> None:
    declared = {
        name: value
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, errors.SetsudenError)
    }
    assert declared.items() <= vars(setsuden.client).items()
    assert declared.keys() <= set(setsuden.client.__all__)


def test_all_names_are_sorted_and_documented() -> None:
    names = setsuden.client.__all__
    assert names == sorted(names)
    classes = [value for name in names if inspect.isclass(value := getattr(setsuden.client, name))]
    assert [kind.__name__ for kind in classes if not inspect.getdoc(kind)] == []


def test_every_module_of_the_client_is_private() -> None:
    modules = [module.name for module in pkgutil.iter_modules(setsuden.client.__path__)]
    assert [name for name in modules if not name.startswith("_")] == []


@pytest.mark.parametrize(("sync", "asynchronous"), [(Client, AsyncClient), (Handle, AsyncHandle)])
def test_both_clients_have_the_same_methods(sync: type, asynchronous: type) -> None:
    def signatures(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in inspect.getmembers(kind, inspect.isfunction)
            if not name.startswith("_") and name != "update"
        }

    assert signatures(sync) == signatures(asynchronous)


def test_both_fake_clients_take_the_same_arguments() -> None:
    assert inspect.signature(FakeClient) == inspect.signature(FakeAsyncClient)
