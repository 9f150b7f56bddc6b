"""Samples of /metrics, and what happened between two of them."""

import asyncio

import pytest

from dashboard.traffic import Sample, Traffic, between, parsed, percentile, spans
from understudy.client import RequestFailed

TEXT = """
# TYPE understudy_http_requests_total counter
understudy_http_requests_total{method="POST",route="/classify",status="200"} 7.0
understudy_http_requests_total{method="POST",route="/v2/models/{name}/infer",status="200"} 2.0
understudy_http_requests_total{method="POST",route="/classify",status="503"} 1.0
understudy_http_requests_total{method="GET",route="/generations",status="200"} 99.0
# TYPE understudy_http_request_duration_seconds histogram
understudy_http_request_duration_seconds_bucket{le="0.01",route="/classify"} 5.0
understudy_http_request_duration_seconds_bucket{le="0.1",route="/classify"} 10.0
understudy_http_request_duration_seconds_bucket{le="+Inf",route="/classify"} 10.0
# TYPE understudy_classified_images_total counter
understudy_classified_images_total{model="g0001-8f2c1a"} 9.0
# TYPE understudy_refused_images_total counter
understudy_refused_images_total{code="not_an_image"} 3.0
# TYPE understudy_serving_model gauge
understudy_serving_model{model="g0000-0fe658"} 0.0
understudy_serving_model{model="g0001-8f2c1a"} 2.0
# TYPE understudy_queue_images gauge
understudy_queue_images 4.0
"""


def test_a_sample_is_of_what_asks_a_model():
    """Both ways of asking count, other requests do not; a model that no process serves with does not serve."""
    sample = parsed(TEXT, 10.0)

    assert (sample.at, dict(sample.answers), sample.queue) == (10.0, {"200": 9.0, "503": 1.0}, 4.0)
    assert (dict(sample.images), dict(sample.refusals)) == ({"g0001-8f2c1a": 9.0}, {"not_an_image": 3.0})
    assert dict(sample.serving) == {"g0001-8f2c1a": 2.0}


def test_what_happened_between_two_samples_is_their_difference():
    """Also of what was not there before; a service that began anew counts from nothing."""
    first = Sample(at=0.0, answers={"200": 5.0}, images={"a": 5.0})
    later = Sample(at=2.0, answers={"200": 9.0, "503": 1.0}, images={"a": 5.0, "b": 4.0})
    anew = Sample(at=4.0, answers={"200": 3.0}, images={"b": 3.0})

    span = between(first, later)
    assert (span.seconds, span.requests, span.failed, dict(span.images)) == (2.0, 5.0, 1.0, {"a": 0.0, "b": 4.0})
    assert (between(later, anew).requests, dict(between(later, anew).images)) == (3.0, {"b": 3.0})


@pytest.mark.parametrize(("share", "expected"), [(0.25, 0.005), (0.5, 0.01), (0.75, 0.055), (1.0, 0.1)])
def test_a_percentile_is_linear_within_its_bin(share, expected):
    """As Prometheus estimates it: half of ten requests within 10 ms, all within 100."""
    assert percentile({0.01: 5.0, 0.1: 10.0, float("inf"): 10.0}, share) == pytest.approx(expected)


def test_a_percentile_of_nothing_is_none_and_of_what_took_too_long_the_last_bound():
    """What is beyond the last bound is not known."""
    assert percentile({}, 0.5) is None
    assert percentile({0.01: 0.0, float("inf"): 0.0}, 0.5) is None
    assert percentile({0.01: 0.0, float("inf"): 3.0}, 0.5) == 0.01


def test_sizes_of_batches_are_not_cumulative():
    """Each bin has its own."""
    span = between(Sample(at=0.0), Sample(at=1.0, batches={1.0: 2.0, 2.0: 5.0, float("inf"): 6.0}))
    assert span.batch_sizes() == {1.0: 2.0, 2.0: 3.0, float("inf"): 1.0}


@pytest.mark.parametrize(("num", "most", "expected"), [(0, 5, 0), (1, 5, 0), (6, 5, 5), (100, 5, 4)])
def test_there_are_no_more_spans_than_wanted(num, most, expected):
    """The newest sample ends the last of them."""
    made = spans([Sample(at=float(i)) for i in range(num)], most)
    assert len(made) == expected <= most
    assert not made or made[-1].at == num - 1


class Told:
    """A system that answers what it is told, or does not."""

    def __init__(self) -> None:
        self.num_asked, self.is_away = 0, False

    async def ask(self, question):
        self.num_asked += 1
        if self.is_away:
            raise RequestFailed("no answer", code="no_answer")
        return TEXT


def test_one_sampler_serves_all_who_look_and_ends_when_nobody_does(until):
    """Twice looked at, it still asks once each time; a service that is away for a while leaves a gap."""
    now = [0.0]

    async def looked() -> tuple[Traffic, Told]:
        traffic, system = Traffic(every_s=0.001, clock=lambda: now[0]), Told()
        traffic.watch(system)
        first = traffic._task
        traffic.watch(system)
        assert traffic._task is first
        while len(traffic.samples) < 3:
            await asyncio.sleep(0)
        system.is_away = True
        missed = system.num_asked + 2
        while system.num_asked < missed:
            await asyncio.sleep(0)
        assert not first.done()
        now[0] = 10_000.0
        await asyncio.wait_for(first, 5)
        return traffic, system

    traffic, system = asyncio.run(looked())

    assert 3 <= len(traffic.samples) < system.num_asked
    assert traffic.last(60) is not None


def test_what_is_kept_is_bounded():
    """An hour of it, however long somebody looks."""

    async def looked() -> Traffic:
        traffic = Traffic(every_s=900.0)
        for _ in range(10):
            await traffic.look(Told())
        return traffic

    assert len(asyncio.run(looked()).samples) == 4
