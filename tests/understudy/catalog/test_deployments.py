"""Deployments: at most one is active, counts only grow, and each ends once; on both engines."""

import pytest

from understudy.catalog import deployments, versions
from understudy.errors import Conflict, NoChampion, NotFound
from understudy.records import Counts, DeploymentKind, DeploymentRequest, DeploymentState, Limits

CHAMPION, CHALLENGER, OTHER = "g0000-aaaaaa", "g0001-bbbbbb", "g0002-cccccc"


def opened(catalog, version: str = CHALLENGER, **fields):
    request = DeploymentRequest(**{"version": version, "kind": DeploymentKind.CANARY, "share": 0.25} | fields)
    return deployments.open_deployment(catalog, request, actor="ada")


@pytest.fixture
def challenger(crown, add_version) -> None:
    """A champion and a challenger of the same classes."""
    crown(CHAMPION)
    add_version(CHALLENGER)


def promote(catalog, version: str, instead_of: str) -> None:
    with catalog.write() as session:
        versions.promote(session, version, instead_of=instead_of, reason="better", actor="gate")


@pytest.mark.usefixtures("challenger")
def test_an_opened_deployment_is_the_active_one(catalog):
    """It says what was asked, whom it is compared with, and that nothing was counted yet."""
    made = opened(catalog, limits=Limits(min_images=7))

    assert deployments.active(catalog) == made == deployments.get(catalog, made.id)
    assert (made.version, made.champion, made.kind, made.share) == (CHALLENGER, CHAMPION, "canary", 0.25)
    assert (made.state, made.opened_by, made.limits.min_images) == ("active", "ada", 7)
    assert (made.counts, made.agreement, made.ended_at) == (Counts(), None, None)


def test_what_cannot_be_deployed_is_refused(catalog, crown, card_of, add_version):
    """No champion, no such version, the champion itself, and another set of classes."""
    add_version(CHALLENGER)
    with pytest.raises(NoChampion):
        opened(catalog)
    crown(CHAMPION)
    with pytest.raises(NotFound, match=OTHER):
        opened(catalog, OTHER)
    with pytest.raises(Conflict, match="is the champion"):
        opened(catalog, CHAMPION)
    versions.register(catalog, card_of(OTHER).model_copy(update={"classes": ("b", "a")}))
    with pytest.raises(Conflict, match="cannot be compared"):
        opened(catalog, OTHER)
    assert deployments.active(catalog) is None


@pytest.mark.usefixtures("challenger")
def test_of_deployments_opened_at_once_one_is_active(catalog, in_threads):
    """The others get Conflict; when it has ended, the next may come."""
    answers = in_threads(lambda _: opened(catalog), 6)

    (made,) = [a for a in answers if not isinstance(a, Exception)]
    assert {type(a) for a in answers if a is not made} == {Conflict}
    deployments.end(catalog, made.id, "enough", actor="ada")
    again = opened(catalog)
    assert [d.id for d in deployments.recent(catalog, limit=10)] == [again.id, made.id]


@pytest.mark.usefixtures("challenger")
def test_what_many_processes_count_adds_up(catalog, in_threads):
    """No count is lost, and the means follow from the sums."""
    made = opened(catalog)
    counts = Counts(champion_requests=2, champion_seconds=0.5, compared_images=4, agreed_images=3)

    in_threads(lambda _: [deployments.add(catalog, made.id, counts) for _ in range(5)], 6)

    now = deployments.get(catalog, made.id)
    assert now.counts == Counts(champion_requests=60, champion_seconds=15.0, compared_images=120, agreed_images=90)
    assert (now.agreement, now.champion_latency_ms, now.challenger_latency_ms) == (0.75, 250.0, None)


@pytest.mark.usefixtures("challenger")
def test_a_deployment_ends_once(catalog, in_threads):
    """Of processes that withdraw it at the same moment one did; afterwards nothing changes it any more."""
    made = opened(catalog)

    did = in_threads(lambda n: deployments.withdraw(catalog, made.id, f"slow {n}"), 6)

    assert sorted(did) == [False] * 5 + [True]
    assert deployments.active(catalog) is None
    over = deployments.add(catalog, made.id, Counts(champion_requests=1))
    assert (over.state, over.reason, over.ended_by) == (DeploymentState.WITHDRAWN, f"slow {did.index(True)}", None)
    assert over.ended_at is not None
    assert over.counts == Counts()
    with pytest.raises(Conflict, match="withdrawn already: slow"):
        deployments.end(catalog, made.id, "by hand", actor="ada")


def test_what_is_not_there_is_not_found(catalog):
    """Asking for it, adding to it and ending it."""
    for act in (
        lambda: deployments.get(catalog, "none"),
        lambda: deployments.add(catalog, "none", Counts(champion_requests=1)),
        lambda: deployments.end(catalog, "none", "x", actor="ada"),
    ):
        with pytest.raises(NotFound):
            act()


@pytest.mark.usefixtures("challenger")
def test_a_promotion_ends_it(catalog, add_version):
    """Its own says so; another model's too, for it was compared with the champion of before; a rollback as well."""
    add_version(OTHER)
    first = opened(catalog)
    promote(catalog, OTHER, CHAMPION)
    second = opened(catalog)
    promote(catalog, CHALLENGER, OTHER)
    third = opened(catalog, OTHER)
    versions.roll_back(catalog, None, reason="ill", actor="ada")

    one, two, three = (deployments.get(catalog, made.id) for made in (first, second, third))
    assert {one.state, two.state, three.state} == {DeploymentState.ENDED}
    assert (one.reason, one.ended_by) == (f"{OTHER} became the champion", "gate")
    assert (two.reason, two.ended_by) == (f"promoted: {CHALLENGER} is the champion now", "gate")
    assert three.ended_by == "ada"


@pytest.mark.usefixtures("challenger")
def test_a_deployment_opened_at_the_moment_of_a_promotion_is_never_of_another_champion(catalog, in_threads):
    """Whichever comes first, nothing is active that compares with a former champion, or a champion with itself."""
    acts = [lambda: opened(catalog), lambda: promote(catalog, CHALLENGER, CHAMPION)]

    in_threads(lambda n: acts[n % 2](), 6)

    assert versions.champion(catalog).version == CHALLENGER
    assert deployments.active(catalog) is None
