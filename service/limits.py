"""Whether a challenger is worse than its limits allow: from counts alone, so that it can be tested with any.

Nothing is judged on few images, except what is beyond mending: if the limit would be passed even though
all images up to the number that is asked for went well, waiting for them would not change the verdict.
"""

from typing import Literal, NamedTuple

from understudy.records import Counts, DeploymentKind, Limits

#: A canary is not called slow for less than this: it is a frame at 200 Hz, and the noise of a busy machine.
LATENCY_SLACK_S = 0.005


class Fault(NamedTuple):
    """By which limit a challenger is worse, and how in words."""

    cause: Literal["errors", "latency", "agreement"]
    reason: str


def fault_of(kind: DeploymentKind, limits: Limits, counts: Counts) -> Fault | None:
    """What a challenger is to be withdrawn for. None: nothing, so far.

    A shadow's latency is not judged: its images run one at a time, when there is room, and that says
    little of how it would serve.
    """
    found = _errors(limits, counts)
    if found is None and kind == DeploymentKind.CANARY:
        found = _latency(limits, counts)
    return found or _agreement(limits, counts)


def _requests(limits: Limits, counts: Counts) -> int:
    """How many requests a mean is of: as long as there were few images, as many as there could be at the most."""
    if counts.challenger_images >= limits.min_images:
        return max(counts.challenger_requests, 1)
    return max(counts.challenger_requests, limits.min_images)


def _errors(limits: Limits, counts: Counts) -> Fault | None:
    expected = counts.champion_errors / counts.champion_requests if counts.champion_requests else 0.0
    rate = counts.challenger_errors / _requests(limits, counts)
    if rate <= expected + limits.max_error_rate_increase:
        return None
    return Fault(
        "errors",
        f"{counts.challenger_errors} of its {counts.challenger_requests} requests failed, and {expected:.2%} of the "
        f"champion's; the limit is {limits.max_error_rate_increase:.2%} more",
    )


def _latency(limits: Limits, counts: Counts) -> Fault | None:
    if counts.champion_images < limits.min_images:
        return None  # nothing to compare with
    champion_s = counts.champion_seconds / max(counts.champion_requests, 1)
    if counts.challenger_seconds / _requests(limits, counts) <= limits.max_latency_ratio * champion_s + LATENCY_SLACK_S:
        return None
    challenger_s = counts.challenger_seconds / max(counts.challenger_requests, 1)
    return Fault(
        "latency",
        f"a request takes it {1000 * challenger_s:.3g} ms and the champion {1000 * champion_s:.3g} ms, in the mean of "
        f"{counts.challenger_requests} and {counts.champion_requests}; the limit is {limits.max_latency_ratio:g} times "
        f"as long, and {1000 * LATENCY_SLACK_S:g} ms",
    )


def _agreement(limits: Limits, counts: Counts) -> Fault | None:
    if counts.compared_images < limits.min_images:
        return None
    if counts.agreed_images >= limits.min_agreement * counts.compared_images:
        return None
    agreement = counts.agreed_images / counts.compared_images
    return Fault(
        "agreement",
        f"it agrees with the champion on {agreement:.1%} of {counts.compared_images} images; the limit is "
        f"{limits.min_agreement:.1%}",
    )
