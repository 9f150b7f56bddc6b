"""Schemathesis over the whole OpenAPI, against the running service on PostgreSQL: the strictest of our catalogs."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from understudy.settings import ServiceSettings

CONFIG = Path(__file__).with_name("schemathesis.toml")
#: Test cases of each operation and phase, and so many with --thorough: some minutes on two cores.
EXAMPLES, MORE_EXAMPLES = 2, 8


@pytest.fixture
def service_settings(service_settings: ServiceSettings, postgres_database: str) -> ServiceSettings:
    """The service of these tests is on PostgreSQL, which refuses what SQLite lets pass."""
    return service_settings.model_copy(update={"catalog_url": postgres_database})


@pytest.mark.timeout(280)
def test_no_answer_is_a_5xx_or_one_that_the_schema_does_not_allow(
    url: str, serving: Callable[..., str], labeled_set: None, tmp_path: Path, pytestconfig: pytest.Config
):
    """Examples, boundary values, random values right and wrong, and sequences of calls: all checks hold."""
    serving()
    command = [Path(sys.executable).with_name("schemathesis"), "--config-file", CONFIG, "run", f"{url}/openapi.json"]
    num_examples = MORE_EXAMPLES if pytestconfig.getoption("--thorough") else EXAMPLES
    options = ["--max-examples", str(num_examples), "--no-color", "--request-timeout", "60"]
    run = subprocess.run([*command, *options], cwd=tmp_path, capture_output=True, text=True, timeout=270)
    assert run.returncode == 0, run.stdout[-12_000:] + run.stderr[-2000:]
    assert re.search(r"Operations: +(\d+) selected / \1 total", run.stdout)
