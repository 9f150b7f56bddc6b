"""Limits: what a challenger is withdrawn for, what it is not, and when it is too early to say."""

import pytest

from service import limits
from understudy.records import Counts, DeploymentKind, Limits

ASKED = Limits(min_images=100, max_error_rate_increase=0.02, max_latency_ratio=2.0, min_agreement=0.8)


def counts(**changed: float) -> Counts:
    """A canary that is as good as its champion, a tenth of the traffic, 20 ms a request."""
    good = {
        "champion_requests": 900, "champion_images": 900, "champion_seconds": 18.0,
        "challenger_requests": 100, "challenger_images": 100, "challenger_seconds": 2.0,
        "compared_images": 100, "agreed_images": 95,
    }  # fmt: skip
    return Counts(**(good | changed))  # type: ignore[arg-type]


def cause(seen: Counts, *, kind: DeploymentKind = DeploymentKind.CANARY, asked: Limits = ASKED) -> str | None:
    found = limits.fault_of(kind, asked, seen)
    return found and found.cause


def test_one_that_is_as_good_is_not_withdrawn():
    """Neither at first nor later."""
    assert cause(Counts()) is None
    assert cause(counts()) is None


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"challenger_errors": 2}, None),
        ({"challenger_errors": 3}, "errors"),
        ({"challenger_errors": 3, "champion_errors": 9}, None),  # the champion fails as well: 1 % and 2 % more
        ({"challenger_seconds": 4.4}, None),  # 44 ms: twice 20 ms, and 5 ms
        ({"challenger_seconds": 4.6}, "latency"),
        ({"agreed_images": 80}, None),
        ({"agreed_images": 79}, "agreement"),
        ({"agreed_images": 79, "compared_images": 99}, None),  # too few
    ],
)
def test_one_that_is_worse_than_a_limit_allows_is_withdrawn(changed: dict[str, float], expected: str | None):
    """By each limit: just within, and just beyond."""
    assert cause(counts(**changed)) == expected


def test_few_images_prove_nothing_unless_the_rest_could_not_mend_it():
    """Two errors of two may still become two of a hundred; three may not. So with seconds."""
    early = {"challenger_images": 3, "challenger_requests": 3, "compared_images": 3, "agreed_images": 0}
    assert cause(counts(**early, challenger_seconds=0.1, challenger_errors=2)) is None
    assert cause(counts(**early, challenger_seconds=0.1, challenger_errors=3)) == "errors"
    assert cause(counts(**early, challenger_seconds=4.4)) is None
    assert cause(counts(**early, challenger_seconds=4.6)) == "latency"


def test_a_request_of_many_images_counts_once():
    """With enough images the mean is of the requests that there were, however few."""
    few = {"challenger_images": 128, "challenger_requests": 2}
    assert cause(counts(**few, challenger_seconds=0.08)) is None
    assert cause(counts(**few, challenger_seconds=0.1)) == "latency"


def test_without_a_champion_to_compare_with_nothing_is_slow():
    """A canary of all requests has no other latency beside it."""
    alone = {"champion_requests": 5, "champion_images": 5, "champion_seconds": 0.1}
    assert cause(counts(**alone, challenger_seconds=1000.0)) is None


def test_the_latency_of_a_shadow_is_not_judged():
    """It has the room that clients leave; errors and agreement count."""
    assert cause(counts(challenger_seconds=1000.0), kind=DeploymentKind.SHADOW) is None
    assert cause(counts(agreed_images=0), kind=DeploymentKind.SHADOW) == "agreement"
    assert cause(counts(challenger_errors=50), kind=DeploymentKind.SHADOW) == "errors"


def test_a_limit_can_be_taken_off():
    """Any error, any latency, any disagreement."""
    none = Limits(max_error_rate_increase=1, max_latency_ratio=1e6, min_agreement=0)
    worst = counts(challenger_errors=100, challenger_seconds=100.0, agreed_images=0)
    assert cause(worst, asked=none) is None


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"challenger_errors": 3}, r"3 of its 100 requests failed, and 0.00% of the champion's; the limit is 2.00% more"),
        ({"challenger_seconds": 5.0}, r"takes it 50 ms and the champion 20 ms, .* 100 and 900; the limit is 2 times"),
        ({"agreed_images": 0}, r"on 0.0% of 100 images; the limit is 80.0%"),
    ],
)  # fmt: skip
def test_the_reason_names_what_was_seen_and_the_limit(changed: dict[str, float], words: str):
    """For whoever finds it withdrawn."""
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(limits.fault_of(DeploymentKind.CANARY, ASKED, counts(**changed)))
