"""``understudy webhooks``: a real service answers, the reconciler's own code delivers."""

import json
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from typer.testing import Result

from understudy.addresses import Allowance
from understudy.catalog import Catalog
from understudy.client import Client
from understudy.errors import UnderstudyError
from understudy.settings import ServiceSettings
from understudy.store import Store
from worker.fetching import Fetcher
from worker.webhooks import delivering

HERE = Allowance.read("127.0.0.1/32")


@pytest.fixture
def service_settings(service_settings: ServiceSettings) -> ServiceSettings:
    """Webhooks may be on this machine."""
    return service_settings.model_copy(update={"allowed_hooks": "127.0.0.1/32"})


@pytest.fixture
def run(run: Callable[..., Result]) -> Callable[..., Result]:
    """Run one of the commands that are tested here."""
    return partial(run, "webhooks")


@pytest.fixture
def answers(opened: tuple[Catalog, Store]) -> Iterator[tuple[str, list[int]]]:
    """A receiver's address and the statuses it answers with, the last for ever; it is delivered to meanwhile."""
    statuses = [204]

    class Receiving(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Not to the terminal."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Receiving) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        thread.start()
        with delivering(opened[0], Fetcher(HERE), HERE):
            yield f"http://127.0.0.1:{server.server_port}/[red]", statuses
        server.shutdown()
        thread.join()


def test_a_webhook_is_added_pinged_listed_and_removed(
    run: Callable[..., Result], url: str, answers: tuple[str, list[int]]
):
    """The secret alone is on standard output, once; each command says in a line what it did."""
    address, statuses = answers
    secret = run("add", address, "--event", "alarm", "--description", "[bold]mine").stdout
    assert secret.startswith("whsec_")
    with Client(url) as client:
        (made,) = client.webhooks()
    listed = run("list").stdout
    assert all(word in listed for word in (made.id, address, "alarm", "[bold]mine"))
    assert "whsec_" not in listed + run("list", "--json").stdout
    pinged = run("ping", made.id)
    assert (pinged.exit_code, "answered 204 in" in pinged.stdout) == (0, True)
    statuses[:] = [500, 204]
    refused = run("ping", made.id)
    assert (refused.exit_code, "it answered 500" in refused.stdout) == (1, True)
    newest = json.loads(run("deliveries", made.id, "--json", "--limit", 1).stdout)[0]
    assert f"delivery {newest['id']} of ping will be sent again" in run("redeliver", made.id, newest["id"]).stdout
    assert "it answered 500" in run("deliveries", made.id).stdout
    assert run("rotate", made.id).stdout.startswith("whsec_")
    assert run("remove", made.id).stdout == f"webhook {made.id} is removed\n"
    assert json.loads(run("list", "--json").stdout) == []


def test_what_is_refused_is_said(run: Callable[..., Result]):
    """Wrong words are exit code 2; the rest is one sentence."""
    assert run("add", "https://hooks.example/", "--event", "nothing").exit_code == 2
    assert run("add", "https://hooks.example/", "--description", "x" * 201).exit_code == 2
    for words in (("add", "http://10.0.0.1/"), ("ping", "nobody"), ("remove", "nobody")):
        assert isinstance(run(*words).exception, UnderstudyError)
