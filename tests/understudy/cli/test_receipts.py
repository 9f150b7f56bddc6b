"""The command that shows receipts. A real service answers."""

import json
from collections.abc import Callable
from functools import partial

import pytest
from typer.testing import Result

from understudy import labels
from understudy.catalog import Catalog, claims, jobs
from understudy.catalog.tables import JobRow
from understudy.records import JobKind, Outcome, ReceiptEntry
from understudy.store import Store, receipt_key


@pytest.fixture
def run(run: Callable[..., Result]) -> Callable[..., Result]:
    """Run the command that is tested here."""
    return partial(run, "receipt")


@pytest.fixture
def ended(opened: tuple[Catalog, Store]) -> str:
    """A job with a receipt of three lines."""
    catalog, store = opened
    job = jobs.open_upload(catalog, JobKind.INGEST, bucket="b", params={})
    jobs.received(catalog, job.id, [])
    claim = claims.claim(catalog, JobRow, job.id, lease_s=60)
    assert claim is not None
    lines = [
        ReceiptEntry(index=0, name="[red]a.jpg", outcome=Outcome.ACCEPTED),
        ReceiptEntry(index=1, name="b.txt", outcome=Outcome.QUARANTINED, reason="not_an_image", detail="no"),
        ReceiptEntry(index=2, name="c.jpg", outcome=Outcome.DUPLICATE, copy_of="x/0"),
    ]
    store.put(receipt_key(job.id, 1), labels.receipt_to_parquet(lines))
    with catalog.write() as session:
        jobs.succeed(session, claim, {"receipt_key": receipt_key(job.id, 1)})
    return job.id


def test_a_receipt_is_shown_for_people_and_for_programs(run: Callable[..., Result], ended: str):
    """All of it, or the entries of one outcome, in every form."""
    shown = run(ended).stdout.splitlines()
    assert len(shown) == 3
    assert "[red]a.jpg" in shown[0]
    assert shown[1].endswith("b.txt  (not_an_image: no)")
    assert [line["index"] for line in json.loads(run(ended, "--json").stdout)] == [0, 1, 2]
    assert [json.loads(line)["index"] for line in run(ended, "--ndjson").stdout.splitlines()] == [0, 1, 2]
    assert [line[0] for line in run(ended, "--csv", "--only", "quarantined").stdout.splitlines()] == ["i", "1"]
    assert json.loads(run(ended, "--json", "--only", "holdout-leak").stdout) == []


def test_an_unknown_job_is_an_error(run: Callable[..., Result]):
    """In every form, with what the service said; two forms at once are wrong words."""
    for words in ((), ("--csv",), ("--json",)):
        assert run("none", *words).exit_code == 1
    assert run("none", "--csv", "--json").exit_code == 2
