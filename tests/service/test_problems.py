"""Errors that the framework answers by itself are problems too."""

import httpx
import pytest


@pytest.mark.parametrize(("path", "has_error"), [("/classify", False), ("/v2/repository/index", True)])
@pytest.mark.parametrize("has_length", [True, False])
def test_a_body_over_the_limit_is_a_problem(http: httpx.Client, path: str, has_length: bool, has_error: bool):
    """With a length it is refused before it is read; under /v2 the sentence is in the member error as well."""
    body = b"\0" * (65 * 2**20)
    answer = http.post(path, content=body if has_length else iter([body]))
    assert answer.status_code == 413
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["code"] == "body_too_large"
    assert answer.json().get("error") == (answer.json()["detail"] if has_error else None)
