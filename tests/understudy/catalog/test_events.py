"""What happened is written down with the fact, for whoever asked, or not at all. On both engines."""

import json
import threading

import pytest
from sqlalchemy import select, update

from understudy.catalog import Catalog, claims, deployments, events, generations, jobs, shards, versions, webhooks
from understudy.catalog.tables import DeliveryRow, JobRow, LabelSetRow
from understudy.errors import Conflict
from understudy.records import (
    DeploymentKind,
    DeploymentRequest,
    GateReport,
    GenerationRequest,
    JobKind,
    Problem,
    WebhookEvent,
)
from understudy.testing import tiny_evaluation

FIRST, SECOND = "g0000-aaaaaa", "g0001-bbbbbb"
FAULT = Problem(code="worker_fault", detail="no room")


@pytest.fixture
def hook(catalog):
    """A webhook for everything."""
    return webhooks.add(catalog, url="https://example.com/", events=tuple(WebhookEvent), actor="test").id


@pytest.fixture
def told(catalog, hook):
    """Everything that it is to be told so far: type, subject, data."""

    def read(*types):
        with catalog.read() as session:
            bodies = [json.loads(row) for row in session.scalars(select(DeliveryRow.body).order_by(DeliveryRow.id))]
        return [(b["type"], b["subject"], b["data"]) for b in bodies if not types or b["type"] in types]

    return read


def seal(catalog, claim, manifest):
    return shards.seal(catalog, claim, manifest, list(range(len(manifest.members))))


def publish(catalog, claim, num_rows=1):
    shards.publish_labels(catalog, claim, key=f"labels/{claim.id}", sha256="0" * 64, num_rows=num_rows)


def report_of(challenger, champion, verdict):
    return GateReport(
        generation=0, challenger=tiny_evaluation(challenger, "ab"),
        champion=None if champion is None else tiny_evaluation(champion, "ab"),
        gain=None, alpha=0.05, class_floor=0.1, verdict=verdict, rule="test", reasons=("a", "b"),
    )  # fmt: skip


def test_an_ingest_is_told_at_its_end_well_or_not(catalog, told, claimed_job):
    """With its counts, or its problem; also an upload that broke off, and one that killed its holders."""
    good, bad = claimed_job(), claimed_job()
    with catalog.write() as session:
        jobs.succeed(session, good, {"entries": 2, "accepted": 2, "reasons": {}, "receipt_key": "x"})
    jobs.fail(catalog, bad, Problem(code="not_an_archive", detail="x"))
    broken = jobs.open_upload(catalog, JobKind.INGEST, bucket="shop", params={})
    for _ in range(2):
        jobs.fail_upload(catalog, broken.id, FAULT)
    deadly = claimed_job()
    with catalog.write() as session:
        session.execute(update(JobRow).where(JobRow.id == deadly.id).values(lease_until=1.0, attempt=3))
    claims.set_aside(catalog, JobRow)

    (first, *others) = told()
    assert first[:2] == ("ingest.finished", good.id)
    assert first[2]["result"] == {"entries": 2, "accepted": 2}
    assert (first[2]["state"], first[2]["bucket"], first[2]["kind"]) == ("succeeded", "shop", "ingest")
    assert [(subject, data["problem"]["code"]) for _, subject, data in others] == [
        (bad.id, "not_an_archive"), (broken.id, "worker_fault"), (deadly.id, "gave_up"),
    ]  # fmt: skip


def test_what_is_rolled_back_is_not_told(catalog, told, claimed_job):
    """The event goes with the fact: a worker that was overtaken tells nothing."""
    late = claimed_job()
    with catalog.write() as session:
        session.execute(update(JobRow).where(JobRow.id == late.id).values(lease_until=1.0))
    assert claims.claim(catalog, JobRow, late.id, lease_s=60)
    with pytest.raises(claims.LeaseLost):
        jobs.fail(catalog, late, FAULT)
    with catalog.write() as session:
        events.emit(session, WebhookEvent.ALARM, "x", {})
        session.rollback()
    assert told() == []


def test_only_what_was_asked_for_is_written_down(catalog, claimed_job):
    """Nothing for anybody, or for the webhooks of that event."""
    job = claimed_job()
    jobs.fail(catalog, job, FAULT)
    wanted, other = (
        webhooks.add(catalog, url="https://example.com/", events=(event,), actor="test").id
        for event in (WebhookEvent.INGEST_FINISHED, WebhookEvent.ALARM)
    )
    jobs.fail(catalog, claimed_job(), FAULT)
    assert len(webhooks.deliveries(catalog, wanted, limit=9)) == 1
    assert webhooks.deliveries(catalog, other, limit=9) == []


def test_labels_are_ready_when_nothing_waits_for_them(catalog, told, claimed_job, manifest_of, crown):
    """Once for the last shard; a shard that was set aside is an alarm, and counted. Another teacher's are not told."""
    crown(FIRST)
    for name in "xyz":
        seal(catalog, claimed_job(), manifest_of([name]))
    for _ in range(2):
        publish(catalog, shards.claim_labels(catalog, lease_s=60))
    assert told("labels.ready") == []
    last = shards.claim_labels(catalog, lease_s=60)
    claims.give_back(catalog, last, FAULT, max_attempts=1)
    (alarm,) = told("alarm")
    assert (alarm[2]["cause"], alarm[2]["detail"], alarm[2]["bucket"]) == ("shard_set_aside", "no room", "shop")
    counts = {"num_shards": 2, "num_images": 2, "num_failed": 1}
    assert told("labels.ready") == [("labels.ready", FIRST, {"version": FIRST} | counts)]

    crown(SECOND)
    with catalog.write() as session:
        assert claims.retry(session, LabelSetRow, last.id)
    publish(catalog, shards.claim_labels(catalog, lease_s=60))
    assert len(told("labels.ready")) == 1
    versions.roll_back(catalog, None, reason="back", actor="me")
    assert [data["num_shards"] for *_, data in told("labels.ready")] == [2, 3]  # it had labeled everything before


def test_of_two_that_publish_the_last_labels_at_once_one_tells(
    catalog, catalog_url, told, claimed_job, manifest_of, crown
):
    """Neither sees the other's in the middle; together they tell it exactly once."""
    crown(FIRST)
    for name in "xy":
        seal(catalog, claimed_job(), manifest_of([name]))
    last = [shards.claim_labels(catalog, lease_s=60) for _ in range(2)]
    start = threading.Barrier(2)

    def finish(claim):
        mine = Catalog(catalog_url)
        start.wait()
        publish(mine, claim)
        mine.close()

    threads = [threading.Thread(target=finish, args=(claim,)) for claim in last]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(told("labels.ready")) == 1


def test_a_verdict_tells_gate_model_and_generation(catalog, told, labeled_set, add_version):
    """In one transaction; refused, the model does not move."""
    generations.open_generation(catalog, GenerationRequest())
    add_version(FIRST)
    claim = generations.claim(catalog, lease_s=60)
    generations.conclude(catalog, claim, 0, FIRST, report_of(FIRST, None, "promote"))
    happened = told()
    assert [kind for kind, *_ in happened] == ["model.swapped", "gate.passed", "generation.finished"]
    assert happened[0][2] | {"sequence": 1, "previous": None, "actor": "gate"} == happened[0][2]
    assert happened[2][1:] == (
        "0", {"generation": 0, "state": "promoted", "version": FIRST, "job": claim.id, "problem": None},
    )  # fmt: skip
    generations.open_generation(catalog, GenerationRequest())
    add_version(SECOND)
    claim = generations.claim(catalog, lease_s=60)
    with pytest.raises(Conflict):
        generations.conclude(catalog, claim, 1, SECOND, report_of(SECOND, "g0000-cccccc", "promote"))
    assert told() == happened
    generations.conclude(catalog, claim, 1, SECOND, report_of(SECOND, FIRST, "refuse"))
    assert [(kind, data.get("state")) for kind, _, data in told()[3:]] == [
        ("gate.refused", None), ("generation.finished", "refused"),
    ]  # fmt: skip
    versions.override(catalog, SECOND, reason="I know", actor="me")
    versions.roll_back(catalog, None, reason="I did not", actor="me")
    assert [(kind, data["version"], data["previous"], data["reason"]) for kind, _, data in told()[5:]] == [
        ("model.swapped", SECOND, FIRST, "override: I know"), ("model.rolled_back", FIRST, SECOND, "I did not"),
    ]  # fmt: skip


@pytest.mark.parametrize(("code", "cause"), [("selection_collapsed", "tripwire"), ("diverged", "generation_failed")])
def test_a_failed_generation_is_an_alarm(catalog, told, labeled_set, code, cause):
    """A tripwire's by its own name."""
    generations.open_generation(catalog, GenerationRequest())
    jobs.fail(catalog, generations.claim(catalog, lease_s=60), Problem(code=code, detail="why"))
    finished, alarm = told()
    assert (finished[0], finished[2]["state"]) == ("generation.finished", "failed")
    assert alarm == ("alarm", "0", {"cause": cause, "detail": "why", "generation": 0, "code": code})


def test_a_withdrawn_challenger_is_an_alarm_and_an_ended_one_is_not(catalog, told, crown, add_version):
    """Told once, though two processes see it."""
    crown(FIRST)
    add_version(SECOND)
    asked = DeploymentRequest(version=SECOND, kind=DeploymentKind.CANARY, share=0.1)
    opened = deployments.open_deployment(catalog, asked, actor="me")
    assert [deployments.withdraw(catalog, opened.id, "too slow") for _ in range(2)] == [True, False]
    ended = deployments.open_deployment(catalog, asked, actor="me")
    deployments.end(catalog, ended.id, "seen enough", actor="me")
    (alarm,) = told("alarm")
    assert alarm[1:] == (opened.id, {"cause": "deployment_withdrawn", "detail": "too slow", "version": SECOND})
