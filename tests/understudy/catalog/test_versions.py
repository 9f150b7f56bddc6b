"""Versions and the champion's history, on both engines."""

from datetime import datetime

import pytest

from understudy.catalog import versions
from understudy.errors import Conflict, NotFound
from understudy.records import VersionState

FIRST, SECOND, THIRD = "g0000-aaaaaa", "g0001-bbbbbb", "g0002-cccccc"


def promote(catalog, version: str, instead_of: str | None) -> None:
    with catalog.write() as session:
        versions.promote(session, version, instead_of=instead_of, reason="proved better", actor="gate")


def test_a_new_version_is_a_challenger(catalog, add_version):
    """A registered version comes back with its card unchanged, and does not serve."""
    card = add_version(FIRST)

    version = versions.get(catalog, FIRST)

    assert (version.state, version.is_champion, version.card) == (VersionState.CHALLENGER, False, card)
    assert versions.champion(catalog) is None


def test_registering_twice_is_registering_once(catalog, add_version):
    """A repeated trainer finds its version there, in the state that it has by now."""
    add_version(FIRST)
    promote(catalog, FIRST, None)

    add_version(FIRST)

    assert [(v.id, v.state) for v in versions.every(catalog)] == [(FIRST, VersionState.PROMOTED)]


def test_registering_at_once_is_registering_once(catalog, card_of, in_threads):
    """Two trainers that publish the same version at the same moment both succeed."""
    assert in_threads(lambda _: versions.register(catalog, card_of(FIRST)), 6) == [None] * 6
    assert len(versions.every(catalog)) == 1


def test_the_promoted_version_is_the_champion(catalog, add_version):
    """Promotion moves the pointer and says since when, why and by whom."""
    add_version(FIRST)

    promote(catalog, FIRST, None)

    champion = versions.champion(catalog)
    assert (champion.version, champion.sequence, champion.reason, champion.actor) == (FIRST, 1, "proved better", "gate")
    assert versions.get(catalog, FIRST).is_champion


def test_what_was_compared_with_another_champion_is_not_promoted(catalog, add_version):
    """Promotion is a compare-and-set on the champion that the challenger was compared with."""
    for version in (FIRST, SECOND, THIRD):
        add_version(version)
    promote(catalog, FIRST, None)
    promote(catalog, SECOND, FIRST)

    for stale in (FIRST, None):
        with pytest.raises(Conflict, match=SECOND):
            promote(catalog, THIRD, stale)

    assert versions.champion(catalog).version == SECOND
    assert versions.get(catalog, THIRD).state == VersionState.CHALLENGER


def test_the_history_only_grows(catalog, add_version):
    """A rollback is one more entry, not one less."""
    for version in (FIRST, SECOND):
        add_version(version)
    promote(catalog, FIRST, None)
    promote(catalog, SECOND, FIRST)
    before = versions.history(catalog)

    promote(catalog, FIRST, SECOND)

    after = versions.history(catalog)
    assert [c.version for c in after] == [FIRST, SECOND, FIRST]
    assert [c.sequence for c in after] == [3, 2, 1]
    assert after[1:] == before


def test_of_racing_promotions_exactly_one_wins(catalog, add_version, in_threads):
    """Challengers proved against the same champion at the same moment: one is promoted, the others get Conflict."""
    add_version(FIRST)
    promote(catalog, FIRST, None)
    challengers = [f"g0001-{n:06d}" for n in range(6)]
    for challenger in challengers:
        add_version(challenger)

    answers = in_threads(lambda n: promote(catalog, challengers[n], FIRST), len(challengers))

    assert answers.count(None) == 1
    assert {type(a) for a in answers if a is not None} == {Conflict}
    assert versions.champion(catalog).version == challengers[answers.index(None)]
    assert len(versions.history(catalog)) == 2


def test_a_promotion_in_a_transaction_that_fails_did_not_happen(catalog, add_version):
    """Promotion is part of its caller's transaction."""
    add_version(FIRST)

    def promote_and_raise() -> None:
        with catalog.write() as session:
            versions.promote(session, FIRST, instead_of=None, reason="", actor="test")
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        promote_and_raise()

    assert versions.champion(catalog) is None
    assert versions.get(catalog, FIRST).state == VersionState.CHALLENGER


def test_a_long_reason_is_cut(catalog, add_version):
    """A reason longer than its column is no reason to fail."""
    add_version(FIRST)
    with catalog.write() as session:
        versions.promote(session, FIRST, instead_of=None, reason="x" * 5000, actor="test")

    assert len(versions.champion(catalog).reason) == 1000


def test_an_unknown_version_is_not_found(catalog):
    """Asking for a version that was never registered says NotFound, and so does promoting it."""
    with pytest.raises(NotFound, match="g9999"):
        versions.get(catalog, "g9999-000000")
    with pytest.raises(NotFound, match="g9999"):
        promote(catalog, "g9999-000000", None)


# -- history and rollback ---------------------------------------------------------------------------


def roll_back(catalog, version: str | None = None) -> str:
    return versions.roll_back(catalog, version, reason="it fell ill", actor="ada").version


def test_the_champion_of_a_time_is_the_one_that_served_then(catalog, crown):
    """Between two promotions it is the first of them, at one it is the new one; later it is the one of now."""
    for version in (FIRST, SECOND, THIRD):
        crown(version)
    third, second, first = versions.history(catalog)

    def at(moment: float) -> str | None:
        champion = versions.champion_at(catalog, moment)
        return champion.version if champion else None

    assert at(first.at - 1) is None
    assert (at(first.at), at(second.at), at(third.at)) == (FIRST, SECOND, THIRD)
    assert at(third.at + 1e6) == THIRD


def test_a_time_as_it_is_shown_means_all_of_its_millisecond(catalog, crown):
    """Shown times are cut to milliseconds; asked for again they still name the one promoted then."""
    crown(FIRST)
    shown = versions.history(catalog)[0].model_dump(mode="json")["at"]

    champion = versions.champion_at(catalog, datetime.fromisoformat(shown).timestamp())

    assert champion is not None


def test_a_rollback_is_written_down_with_who_and_why(catalog, crown):
    """The one before serves again; the history says more, not less."""
    crown(FIRST)
    crown(SECOND)

    roll_back(catalog)

    entry, *before = versions.history(catalog)
    assert (entry.sequence, entry.version, entry.reason, entry.actor) == (3, FIRST, "it fell ill", "ada")
    assert [c.version for c in before] == [SECOND, FIRST]
    assert versions.get(catalog, FIRST).is_champion


def test_rolling_back_twice_goes_back_twice_and_never_forth(catalog, crown):
    """What was rolled back from does not come back unless it is named."""
    for version in (FIRST, SECOND, THIRD):
        crown(version)

    assert [roll_back(catalog), roll_back(catalog)] == [SECOND, FIRST]
    with pytest.raises(Conflict, match="none before"):
        roll_back(catalog)
    assert roll_back(catalog, THIRD) == THIRD


@pytest.mark.parametrize(
    ("version", "error", "words"),
    [
        (THIRD, Conflict, "never was the champion"),  # a challenger
        (SECOND, Conflict, "is the champion already"),
        ("g9999-000000", NotFound, "no model"),
    ],
)
def test_only_a_former_champion_may_come_back(catalog, crown, add_version, version, error, words):
    """What the gate did not promote cannot come in by this door."""
    crown(FIRST)
    crown(SECOND)
    add_version(THIRD)

    with pytest.raises(error, match=words):
        roll_back(catalog, version)

    assert versions.champion(catalog).version == SECOND
    assert len(versions.history(catalog)) == 2


def test_a_person_may_promote_what_the_gate_refused(catalog, crown, add_version):
    """With a reason, on the record, and as the champion of whoever had none."""
    add_version(FIRST)
    with catalog.write() as session:
        versions.judge(session, FIRST, VersionState.REFUSED)

    entry = versions.override(catalog, FIRST, reason="the holdout is too small", actor="key ab12")

    assert (entry.version, entry.sequence, entry.actor) == (FIRST, 1, "key ab12")
    assert entry.reason == "override: the holdout is too small"
    assert versions.champion(catalog).version == FIRST
    assert versions.get(catalog, FIRST).state == VersionState.PROMOTED


def test_only_what_was_refused_is_promoted_against_the_verdict(catalog, crown, add_version):
    """Not the champion, not a former one, not what nobody has judged."""
    crown(FIRST)
    crown(SECOND)
    add_version(THIRD)

    for version in (FIRST, SECOND, THIRD):
        with pytest.raises(Conflict, match="only what the gate refused"):
            versions.override(catalog, version, reason="x", actor="a")
    with pytest.raises(NotFound, match="no model"):
        versions.override(catalog, "g9999-000000", reason="x", actor="a")
    assert versions.champion(catalog).version == SECOND
    assert len(versions.history(catalog)) == 2


def test_without_a_champion_there_is_nothing_to_roll_back(catalog):
    """Nothing was promoted yet."""
    with pytest.raises(Conflict, match="nothing to roll back"):
        roll_back(catalog)


def test_of_racing_rollbacks_each_is_one_step_or_a_conflict(catalog, crown, in_threads):
    """Whatever the order, the history grows by one for each that succeeded, and only former champions serve."""
    for version in (FIRST, SECOND, THIRD):
        crown(version)

    answers = in_threads(lambda _: roll_back(catalog), 4)

    done = [a for a in answers if isinstance(a, str)]
    assert done
    assert {type(a) for a in answers if not isinstance(a, str)} <= {Conflict}
    assert sorted(done, reverse=True) == [SECOND, FIRST][: len(done)]
    assert len(versions.history(catalog)) == 3 + len(done)
