"""The OpenAPI document teaches: every operation is described, and every example is true to its schema."""

import importlib
import pkgutil
from typing import Any

import pytest
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from service import routes
from service.app import create_app
from understudy import settings
from understudy.settings import ServiceSettings

APP = create_app(settings.read(ServiceSettings))
ROUTES: list[APIRoute] = [
    route
    for noun in pkgutil.iter_modules(routes.__path__, "service.routes.")
    for route in importlib.import_module(noun.name).router.routes
    if isinstance(route, APIRoute)
]
DOCUMENT: dict[str, Any] = APP.openapi()
OPERATIONS = [
    pytest.param(path, method, operation, id=f"{method} {path}")
    for path, methods in DOCUMENT["paths"].items()
    for method, operation in methods.items()
]


def test_no_noun_is_forgotten():
    """Every route that a file declares is one of the application's."""
    assert {route.path_format for route in ROUTES if route.include_in_schema} == set(DOCUMENT["paths"])


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_operation_says_what_it_does_and_what_its_parameters_mean(
    path: str, method: str, operation: dict[str, Any]
):
    """A summary, a description, and one for each query parameter."""
    assert operation["summary"]
    assert len(operation["description"]) > 10
    undescribed = [p["name"] for p in operation.get("parameters", []) if p["in"] == "query" and "description" not in p]
    assert undescribed in ([], ["limit"], ["seed"])


@pytest.mark.parametrize(("path", "method", "operation"), OPERATIONS)
def test_every_example_fits_what_the_route_answers(path: str, method: str, operation: dict[str, Any]):
    """The example is parsed by the route's own answer type."""
    (route,) = [r for r in ROUTES if r.path_format == path and method.upper() in r.methods]
    for status, response in operation["responses"].items():
        example = response.get("content", {}).get("application/json", {}).get("example")
        if example is not None:
            assert status.startswith("2")
            TypeAdapter(route.response_model).validate_python(example)


def test_the_routes_that_people_begin_with_have_examples():
    """classify, ingest, labeled, jobs, generations."""
    with_examples = {
        path
        for path, methods in DOCUMENT["paths"].items()
        for operation in methods.values()
        for response in operation["responses"].values()
        if "example" in response.get("content", {}).get("application/json", {})
    }
    assert with_examples >= {"/classify", "/ingest", "/labeled", "/jobs/{job_id}", "/generations", "/buckets"}
