"""What a key and a beginning mean."""

from dashboard.frame import View
from dashboard.review.feed import Feed, keys_of, matches, meant
from dashboard.sessions import Sessions
from understudy.review_records import QueueItem
from understudy.settings import DashboardSettings


def test_classes_that_are_digits_are_their_own_keys():
    """Whatever place they have; others are counted, nine of them."""
    assert keys_of(["7", "0"], ["0", "7", "9"]) == {"7": "7", "0": "0"}
    assert keys_of(["jade", "amber"], ["amber", "jade"]) == {"jade": "1", "amber": "2"}
    assert keys_of(["10", "2"], ["10", "2"]) == {"10": "1", "2": "2"}
    assert len(keys_of([f"c{i}" for i in range(30)], [f"c{i}" for i in range(30)])) == 9


def test_a_beginning_means_the_class_that_is_it_or_begins_so():
    """A class whose whole name was said comes before longer ones; a slip is only offered."""
    classes = ["catfish", "cat", "bobcat", "Dog"]
    assert matches(" CAT ", classes) == ["cat", "catfish", "bobcat"]
    assert (meant("catf", classes), meant("do", classes)) == ("catfish", "Dog")
    assert matches("catfsh", classes)[0] == "catfish"
    assert (meant("catfsh", classes), meant("", classes), meant("zebra", classes)) == (None, None, None)


def test_what_is_said_becomes_the_decision_that_the_service_takes():
    """The teacher's own class accepts; in an audit nothing does, and the sample's threshold goes along."""
    item = QueueItem(
        sha256="0" * 64, bucket="b", teacher="g0001-abcdef", label="cat", confidence=0.5, margin=0.1, classes=()
    )
    view = View(Sessions(DashboardSettings()).of({}), "/review")
    feed = Feed(view, "uncertain")
    accepted, corrected = feed.decision(item, "cat"), feed.decision(item, "dog")
    assert (accepted.verdict, accepted.class_name, accepted.teacher) == ("accept", "cat", "g0001-abcdef")
    assert (corrected.verdict, corrected.class_name) == ("correct", "dog")
    assert feed.decision(item, None).verdict == "reject"
    audit = Feed(view, "audit", audit_threshold=0.4)
    said = audit.decision(item, "cat")
    assert (said.verdict, said.is_audit, said.audit_threshold) == ("correct", True, 0.4)
