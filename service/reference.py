"""The reference of the REST API, made of its OpenAPI description: ``python -m service.reference > docs/rest.md``."""

import sys
from collections.abc import Iterator
from typing import Any

from service.access import needed
from service.app import create_app
from understudy import settings
from understudy.settings import ServiceSettings

HEAD = """\
# REST API

Made from the OpenAPI description by `make reference`; a test holds both to be equal. The running service describes itself,
with every field of every answer, at `/openapi.json`, and for browsers at `/docs`.

**Keys.** Where the service asks for them ([keys](keys.md)): `Authorization: Bearer KEY`. The scope is said of every route; `any`
is a key with whatever scope, `open` needs none.

**Errors** are RFC 9457 problem details (`application/problem+json`) with `status`, a stable `code`, and a `detail` that says what
was seen, what the limit is and what to do. Every answer has an `X-Request-Id`.

| status | what was wrong |
|---|---|
| 400 | the request breaks a rule of HTTP, or is not of the form that its content type says |
| 401, 403 | no key, or one that is unknown, revoked, or without the scope |
| 404 | there is nothing of that name |
| 408 | the body took too long to arrive |
| 409 | it contradicts what is there already |
| 413, 415, 416 | too large; not a kind of content that is taken; a range that the file does not have |
| 422 | what was sent cannot be used |
| 429 | the key has sent too many requests; try again after `Retry-After` seconds |
| 503 | not ready, overloaded, or without its catalog; try again after `Retry-After` seconds |
| 504 | the request's time was over before its turn came |

**Lists** are pages: `items`, and `next`, which as `cursor` asks for what follows; null at the end.

**Long work** answers 202 with a job; `GET /jobs/{job_id}` says how far it is. What may be sent again without acting twice takes
an `Idempotency-Key`.
"""

Operation = dict[str, Any]


def text() -> str:
    """The whole page."""
    schema = create_app(settings.read(ServiceSettings)).openapi()
    by_tag: dict[str, list[tuple[str, str, Operation]]] = {}
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            by_tag.setdefault(operation["tags"][0], []).append((method.upper(), path, operation))
    parts = [HEAD]
    for tag in sorted(by_tag):
        parts.append(f"## {tag.capitalize()}\n")
        parts += [_operation(*each) for each in by_tag[tag]]
    return "\n".join(parts)


def _operation(method: str, path: str, operation: Operation) -> str:
    lines = [f"### `{method} {path}`", "", operation.get("description", ""), "", f"Scope: {_scope(method, path)}.", ""]
    if body := operation.get("requestBody"):
        lines += [f"Body: {', '.join(f'`{kind}`' for kind in body['content'])}.", ""]
    if parameters := list(_parameters(operation)):
        lines += ["| parameter | in | what |", "|---|---|---|", *parameters, ""]
    return "\n".join([*lines, _answers(operation), ""])


def _answers(operation: Operation) -> str:
    """What is answered, and the statuses of refusals, which mean the same everywhere."""
    answers = sorted(operation["responses"].items())
    good = [f"{status} {said['description'].rstrip('.')}" for status, said in answers if status < "400"]
    refused = [status for status, _ in answers if status >= "400"]
    return f"Answers: {'; '.join(good)}. Refusals: {', '.join(refused)}."


def _scope(method: str, path: str) -> str:
    scopes = needed(method, path)
    if not scopes:
        return "open"
    return "any" if len(scopes) == len(needed("GET", "/jobs")) else " or ".join(sorted(scopes))


def _parameters(operation: Operation) -> Iterator[str]:
    for parameter in operation.get("parameters", ()):
        said = parameter.get("description", "").replace("|", "\\|").replace("\n", " ")
        required = " (required)" if parameter.get("required") and parameter["in"] != "path" else ""
        yield f"| `{parameter['name']}` | {parameter['in']} | {said}{required} |"


if __name__ == "__main__":
    sys.stdout.write(text())
