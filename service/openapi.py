"""The OpenAPI document: FastAPI's own, with all that a route may answer.

FastAPI knows neither that our errors are problem details, nor which of them come from the layers around a route.
"""

from typing import Any

from fastapi import FastAPI

from service.problems import MEDIA_TYPE

PROBLEM = {"$ref": "#/components/schemas/ProblemDetails"}
#: What FastAPI says of a request that does not fit its parameters; our handler answers a problem instead.
FRAMEWORKS_OWN = ("HTTPValidationError", "ValidationError")

ANY = {"400": "The request breaks a rule of HTTP, or is not of the form that its content type says."}
WITH_PARAMETERS = {"422": "What was sent cannot be used; `code` and `detail` say why."}
WITH_BODY = WITH_PARAMETERS | {
    "413": "The body is too large.",
    "415": "Not a kind of content, or not a content coding, that is taken.",
}
WITH_CATALOG = {"503": "Not ready, overloaded or without its catalog; try again after `Retry-After` seconds."}
WITH_NAME = {"404": "There is nothing of that name."}


def describe(app: FastAPI) -> None:
    """Tell OpenAPI how every operation refuses."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        for operations in document["paths"].values():
            for operation in operations.values():
                _describe(operation)
        for name in FRAMEWORKS_OWN:
            document["components"]["schemas"].pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's own way to extend its schema


def _describe(operation: dict[str, Any]) -> None:
    for parameter in operation.get("parameters", []):
        parameter["schema"] = _as_sent(parameter["schema"])
    responses = operation["responses"]
    for response in responses.values():
        if _is_error(response.get("content", {})):
            response["content"] = {MEDIA_TYPE: {"schema": PROBLEM}}
    for status, description in _refusals(operation).items():
        responses.setdefault(status, {"description": description, "content": {MEDIA_TYPE: {"schema": PROBLEM}}})


def _refusals(operation: dict[str, Any]) -> dict[str, str]:
    places = {parameter["in"] for parameter in operation.get("parameters", [])}
    refusals = ANY if "health" in operation.get("tags", []) else ANY | WITH_CATALOG
    if places:
        refusals |= WITH_PARAMETERS
    if "path" in places:
        refusals |= WITH_NAME
    if "requestBody" in operation:
        refusals |= WITH_BODY
    return refusals


def _as_sent(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter's schema without null: one may be left out, but what is sent in an URL or a header is a text."""
    kinds: list[dict[str, Any]] = [kind for kind in schema.get("anyOf", []) if kind != {"type": "null"}]
    if len(kinds) != 1:
        return schema
    return {key: value for key, value in schema.items() if key != "anyOf"} | kinds[0]


def _is_error(content: dict[str, Any]) -> bool:
    schema = str(content.get("application/json", {}).get("schema", {}).get("$ref", ""))
    return schema.endswith(("/ProblemDetails", *(f"/{name}" for name in FRAMEWORKS_OWN)))
