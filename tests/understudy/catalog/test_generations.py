"""Generations: opened one at a time, ended with a verdict, on both engines."""

import pytest
from sqlalchemy import update

from understudy.catalog import claims, generations, jobs, versions
from understudy.catalog.database import now
from understudy.catalog.idempotency import Key
from understudy.catalog.tables import JobRow
from understudy.errors import Conflict, LeaseLost, NotFound, NotReady
from understudy.records import GateReport, GenerationRequest, GenerationState, JobState, Problem, VersionState
from understudy.testing import tiny_evaluation

FIRST, SECOND, THIRD = "g0000-aaaaaa", "g0001-bbbbbb", "g0001-cccccc"
REQUEST = GenerationRequest(student="tiny", overrides={"epochs": 2}, seed=7)


@pytest.fixture(autouse=True)
def labels(request, catalog) -> None:
    """Every generation needs a labeled set, but for the test of that."""
    if "without_a_labeled_set" not in request.node.name:
        request.getfixturevalue("labeled_set")


@pytest.fixture
def report_of():
    """Makes the gate's report on a challenger against a champion."""

    def make(challenger: str, champion: str | None, verdict: str) -> GateReport:
        return GateReport(
            generation=0, challenger=tiny_evaluation(challenger, "ab"),
            champion=None if champion is None else tiny_evaluation(champion, "ab"),
            gain=None, alpha=0.05, class_floor=0.1, verdict=verdict, rule="test", reasons=("a", "b"),
        )  # fmt: skip

    return make


@pytest.fixture
def claimed_generation(catalog):
    """Opens a generation and claims its job."""

    def make():
        generation = generations.open_generation(catalog, REQUEST)
        return generation, claims.claim(catalog, JobRow, generations.claimable(catalog), lease_s=60)

    return make


def end(catalog, claim) -> None:
    jobs.fail(catalog, claim, Problem(code="diverged", detail="the loss is not finite"))


def test_a_generation_is_opened_with_its_job(catalog):
    """A new generation is queued, knows its request and its teacher, and has a job for the trainer."""
    generation = generations.open_generation(catalog, REQUEST)

    assert (generation.number, generation.state, generation.teacher) == (0, GenerationState.QUEUED, None)
    assert generation.request == REQUEST
    assert generation.job.params == {"generation": 0}
    assert generations.claimable(catalog) == generation.job.id
    assert generations.of_job(catalog, generation.job.id) == generation


def test_a_key_that_has_opened_a_generation_opens_no_second(catalog, claimed_generation):
    """Neither while it runs nor when it has ended; another request under the same key is refused."""
    key = Key.of("somebody", "generations", "k1")
    first = generations.open_generation(catalog, REQUEST, key=key, fingerprint="a" * 64)

    assert generations.open_generation(catalog, REQUEST, key=key, fingerprint="a" * 64) == first
    with pytest.raises(Conflict, match="Idempotency-Key") as caught:
        generations.open_generation(catalog, REQUEST, key=key, fingerprint="b" * 64)
    assert caught.value.code == "idempotency_mismatch"
    end(catalog, claims.claim(catalog, JobRow, first.job.id, lease_s=60))
    again = generations.open_generation(catalog, REQUEST, key=key, fingerprint="a" * 64)

    assert (again.number, again.state) == (0, GenerationState.FAILED)
    assert len(generations.every(catalog)) == 1


def test_the_list_has_the_verdict_in_short(catalog, claimed_generation, add_version, report_of):
    """Nothing in it grows with the classes; what it has is what the whole report says."""
    _, claim = claimed_generation()
    report = report_of(FIRST, None, "promote")
    add_version(FIRST)
    generations.conclude(catalog, claim, 0, FIRST, report)

    (lean,) = generations.summaries(catalog)
    whole = generations.get(catalog, 0)

    assert lean.report.challenger.accuracy == report.challenger.accuracy
    assert lean.report.challenger.interval == report.challenger.interval
    assert (lean.report.reasons, lean.report.is_proved) == (report.reasons, True)
    same = set(type(lean).model_fields) - {"report"}
    assert all(getattr(lean, name) == getattr(whole, name) for name in same)
    assert "per_class" not in lean.model_dump_json()


def test_only_one_generation_is_open_at_a_time(catalog, claimed_generation):
    """While one is queued or running the next is refused; when it has ended the next gets the next number."""
    _, claim = claimed_generation()
    with pytest.raises(Conflict, match="generation 0"):
        generations.open_generation(catalog, REQUEST)

    end(catalog, claim)

    assert generations.open_generation(catalog, REQUEST).number == 1
    assert [g.number for g in generations.every(catalog)] == [1, 0]


def test_of_racing_requests_exactly_one_opens_a_generation(catalog, in_threads):
    """Requests at the same moment: one opens the generation, the others get Conflict."""
    answers = in_threads(lambda _: generations.open_generation(catalog, REQUEST), 6)

    assert sorted(type(a).__name__ for a in answers) == ["Conflict"] * 5 + ["Generation"]
    assert len(generations.every(catalog)) == 1


def test_the_teacher_is_the_champion_at_the_opening(catalog, crown):
    """A promotion later on does not change who teaches."""
    crown(FIRST)
    generation = generations.open_generation(catalog, REQUEST)

    crown(SECOND)

    assert generations.get(catalog, generation.number).teacher == FIRST


def test_a_promotion_ends_the_generation_and_its_job(catalog, claimed_generation, add_version, report_of):
    """Champion, version, generation and job change in one step."""
    generation, claim = claimed_generation()
    add_version(FIRST)

    generations.conclude(catalog, claim, generation.number, FIRST, report_of(FIRST, None, "promote"))

    ended = generations.get(catalog, generation.number)
    assert (ended.state, ended.version, ended.job.state) == (GenerationState.PROMOTED, FIRST, JobState.SUCCEEDED)
    assert ended.report == report_of(FIRST, None, "promote")
    assert ended.job.result == {"version": FIRST, "verdict": "promote"}
    assert ended.ended_at >= ended.created_at
    assert versions.champion(catalog).version == FIRST
    assert versions.champion(catalog).reason == "a; b"


def test_a_refusal_ends_the_generation_and_leaves_the_champion(
    catalog, claimed_generation, crown, add_version, report_of
):
    """A challenger that is not proved better is refused, with its report, and the champion serves on."""
    crown(FIRST)
    generation, claim = claimed_generation()
    add_version(SECOND)

    generations.conclude(catalog, claim, generation.number, SECOND, report_of(SECOND, FIRST, "refuse"))

    ended = generations.get(catalog, generation.number)
    assert (ended.state, ended.version, ended.job.state) == (GenerationState.REFUSED, SECOND, JobState.SUCCEEDED)
    assert versions.get(catalog, SECOND).state == VersionState.REFUSED
    assert versions.champion(catalog).version == FIRST


def test_a_verdict_against_another_champion_writes_nothing(catalog, claimed_generation, crown, add_version, report_of):
    """If the champion moved since the comparison, Conflict: the generation goes on, and can compare again."""
    crown(FIRST)
    generation, claim = claimed_generation()
    add_version(THIRD)
    crown(SECOND)

    with pytest.raises(Conflict, match=SECOND):
        generations.conclude(catalog, claim, generation.number, THIRD, report_of(THIRD, FIRST, "promote"))

    assert generations.get(catalog, generation.number).state == GenerationState.RUNNING
    assert versions.get(catalog, THIRD).state == VersionState.CHALLENGER
    assert versions.champion(catalog).version == SECOND
    generations.conclude(catalog, claim, generation.number, THIRD, report_of(THIRD, SECOND, "promote"))
    assert versions.champion(catalog).version == THIRD


@pytest.mark.parametrize("verdict", ["promote", "refuse"])
def test_a_late_trainer_concludes_nothing(catalog, claimed_generation, add_version, report_of, verdict):
    """A trainer that was overtaken moves neither the champion nor the generation."""
    generation, late = claimed_generation()
    add_version(FIRST)
    with catalog.write() as session:
        session.execute(update(JobRow).where(JobRow.id == late.id).values(lease_until=now() - 1))
    assert generations.claimable(catalog) == late.id
    claims.claim(catalog, JobRow, late.id, lease_s=60)

    with pytest.raises(LeaseLost):
        generations.conclude(catalog, late, generation.number, FIRST, report_of(FIRST, None, verdict))

    assert versions.champion(catalog) is None
    assert versions.get(catalog, FIRST).state == VersionState.CHALLENGER
    assert generations.get(catalog, generation.number).state == GenerationState.RUNNING


def test_a_failed_generation_tells_its_problem_and_its_end(catalog, claimed_generation):
    """A generation fails with its job."""
    generation, claim = claimed_generation()

    end(catalog, claim)

    failed = generations.get(catalog, generation.number)
    assert failed.state == GenerationState.FAILED
    assert failed.job.problem.code == "diverged"
    assert failed.ended_at == failed.job.updated_at
    assert generations.claimable(catalog) is None


def test_a_trainer_may_be_killed_often(catalog, claimed_generation):
    """A generation is claimed again up to its own limit of attempts, then no more."""
    _, claim = claimed_generation()
    for _ in range(generations.MAX_ATTEMPTS - 1):
        with catalog.write() as session:
            session.execute(update(JobRow).where(JobRow.id == claim.id).values(lease_until=now() - 1))
        waiting = generations.claimable(catalog)
        assert claims.claim(catalog, JobRow, waiting, lease_s=60, max_attempts=generations.MAX_ATTEMPTS) is not None
    with catalog.write() as session:
        session.execute(update(JobRow).where(JobRow.id == claim.id).values(lease_until=now() - 1))

    assert generations.claimable(catalog) is None


def test_the_previous_generation_is_the_newest_that_made_a_model(catalog, claimed_generation, add_version, report_of):
    """A generation that failed without a model is passed over."""
    first, claim = claimed_generation()
    add_version(FIRST)
    generations.conclude(catalog, claim, first.number, FIRST, report_of(FIRST, None, "promote"))
    _, claim = claimed_generation()
    end(catalog, claim)

    assert generations.previous(catalog, 2).number == first.number
    assert generations.previous(catalog, 0) is None


def test_the_first_labeled_set_needs_a_generation(catalog, claimed_generation, add_version, report_of):
    """A generation is needed while there is no champion and none is on its way."""
    with catalog.read() as session:
        assert generations.needs_first(session)
    generation, claim = claimed_generation()
    with catalog.read() as session:
        assert not generations.needs_first(session)

    add_version(FIRST)
    generations.conclude(catalog, claim, generation.number, FIRST, report_of(FIRST, None, "promote"))

    with catalog.read() as session:
        assert not generations.needs_first(session)


def test_an_unknown_generation_is_not_found(catalog):
    """Asking for a generation that was never opened says NotFound."""
    with pytest.raises(NotFound, match="7"):
        generations.get(catalog, 7)


def test_without_a_labeled_set_no_generation_opens(catalog):
    """There is nothing to learn from before a human has labeled something."""
    with pytest.raises(NotReady, match="labeled set"):
        generations.open_generation(catalog, REQUEST)
