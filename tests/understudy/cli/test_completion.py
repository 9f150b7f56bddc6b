"""What TAB completes, through the shell's own way of asking, and what it does when nobody answers."""

import io
import socket
import time
from collections.abc import Callable

import pytest
import typer
from typer.testing import CliRunner

from understudy.cli import commands, completion
from understudy.client import Client


@pytest.fixture
def tab() -> Callable[..., list[str]]:
    """What bash is told for a line that ends here; the last word is the one to be completed."""

    def tab(*words: str, **environment: str) -> list[str]:
        line = {"COMP_WORDS": " ".join(("understudy", *words)), "COMP_CWORD": str(len(words))}
        asked = {"_UNDERSTUDY_COMPLETE": "complete_bash", **line, **environment}
        return CliRunner().invoke(commands.app, [], prog_name="understudy", env=asked).stdout.split()

    return tab


def test_names_that_the_service_knows_are_completed(
    tab: Callable[..., list[str]], url: str, serving: Callable[..., str]
):
    """Versions, buckets, jobs, classes and generations, from --url or the environment; recipes from nobody."""
    version = serving()
    with Client(url) as client:
        job = client.ingest("holiday-photos", io.BytesIO(b"some"))

    assert tab("promote", "g0", UNDERSTUDY_URL=url) == [version]
    assert tab("promote", "--url", url, "g0") == [version]
    assert tab("rollback", "", UNDERSTUDY_URL=url) == [version]
    assert tab("promote", "x", UNDERSTUDY_URL=url) == []
    assert tab("labels", "--bucket", "hol", UNDERSTUDY_URL=url) == ["holiday-photos"]
    assert tab("labels", "--class", "gr", UNDERSTUDY_URL=url) == ["green"]
    assert tab("receipt", job.id[:4], UNDERSTUDY_URL=url) == [job.id]
    assert tab("watch", "", UNDERSTUDY_URL=url) == []
    assert "tiny" in tab("generate", "--recipe", "t")


def test_who_does_not_answer_completes_nothing_soon(tab: Callable[..., list[str]]):
    """Neither where nobody is, nor where somebody is silent, nor of an address that is none."""
    context = typer.Context(typer.main.get_command(commands.app))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        for url in ("http://127.0.0.1:1", "http://127.0.0.1:{1}".format(*silent.getsockname()), "http://[::1"):
            context.params = {"url": url}
            began = time.monotonic()
            assert completion.versions(context, "") == []
            assert time.monotonic() - began < 3 * completion.TIMEOUT_S
