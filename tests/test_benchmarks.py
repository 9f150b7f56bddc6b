"""The benchmarks as far as they can be wrong without a figure looking odd: schedules, counting, verdicts."""

import asyncio
import http.server
import json
import math
import shutil
import threading
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from benchmarks import kept, sheets
from benchmarks.pipeline import report as pipeline
from benchmarks.pipeline.ingest import IngestMeasurement
from benchmarks.pipeline.selection import Cost, Figures
from benchmarks.serving import client, contestants, open_loop, photos, report, swaps, targets, wrk
from benchmarks.serving.client import Outcome, Target
from benchmarks.serving.limit import Limit
from benchmarks.serving.photos import Bodies
from benchmarks.serving.results import Now, Results
from benchmarks.serving.servers import Memory
from benchmarks.serving.wrk import Closed
from benchmarks.training import speed
from understudy import images


class Choosy(http.server.BaseHTTPRequestHandler):
    """Answers a body of a few bytes with 200, an empty one with 503, and one that says so with a broken connection."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if body == b"break":
            self.close_connection = True
            return
        answer = json.dumps({"model": "g0000-000000"}).encode()
        self.send_response(200 if body else 503)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def choosy() -> Iterator[str]:
    """The address of a real server."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Choosy) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/classify"
        server.shutdown()
        thread.join()


@pytest.fixture
def bodies(tmp_path: Path) -> Callable[..., Bodies]:
    """A folder of bodies."""

    def written(*contents: bytes) -> Bodies:
        for index, content in enumerate(contents):
            (tmp_path / f"{index:03d}.body").write_bytes(content)
        return Bodies(tmp_path, "image/jpeg")

    return written


def closed(**changes: float) -> Closed:
    """A closed loop of 32 connections at 80 requests a second."""
    values = {
        "connections": 32,
        "num_requests": 800,
        "num_steady": 800,
        "seconds": 10.0,
        "ramp_s": 0.0,
        "num_not_200": 0,
        "num_broken": 0,
    }
    return Closed(**(values | {"p50_ms": 390.0, "p95_ms": 450.0, "p99_ms": 480.0, "max_ms": 500.0} | changes))  # type: ignore[arg-type]


def outcome(ended: float, status: int = 200, ms: float = 100.0) -> Outcome:
    """A request that ended then, having taken so long."""
    return Outcome(ended - ms / 1e3, ended - ms / 1e3, ended, status)


def test_photos_are_real_and_the_same_every_time():
    """Photos of 500 × 375 come out of the same seed byte for byte, and of another seed otherwise."""
    made = photos.make(seed=1, num_photos=2)

    assert made == photos.make(seed=1, num_photos=2)
    assert made != photos.make(seed=2, num_photos=2)
    assert {(images.inspect(photo).width, images.inspect(photo).height) for photo in made} == {(500, 375)}
    assert all(20_000 < len(photo) < 120_000 for photo in made)


def test_what_wrk_printed_is_read():
    """The line of our script is found among what wrk prints, and only good answers after the ramp make the rate."""
    output = (
        "Running 10s test\n  90 requests in 1.00s\n"
        'SUMMARY {"num_requests": 90, "seconds": 1.0, "num_steady": 60, "num_not_200": 10, "num_broken": 1, '
        '"p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0, "max_ms": 4.0}\n'
    )

    read = wrk.parse(output, connections=8, ramp_s=0.25)

    assert (read.connections, read.per_second, read.num_errors, read.p99_ms) == (8, 80.0, 11, 3.0)
    with pytest.raises(wrk.WrkFailed, match="no summary"):
        wrk.parse("unable to connect", connections=8)


@pytest.mark.skipif(shutil.which("wrk") is None, reason="wrk is not installed")
def test_wrk_counts_what_was_refused(choosy, bodies):
    """Every second body is refused by the server, and wrk's script counts as many."""
    run = wrk.run(choosy, bodies(b"photo", b""), connections=2, seconds=1)

    assert run.num_requests > 2
    assert run.num_not_200 == pytest.approx(run.num_requests / 2, abs=3)
    assert run.num_broken == 0
    assert 0 < run.num_steady <= run.num_requests - run.num_not_200


def test_arrivals_keep_to_the_rate():
    """A schedule has the rate that was asked for, in order, and is the same for the same seed."""
    due = open_loop.arrivals(200.0, 50.0)

    assert len(due) == pytest.approx(10_000, rel=0.05)
    assert all(earlier <= later for earlier, later in pairwise(due))
    assert due[-1] < 50.0
    assert due == open_loop.arrivals(200.0, 50.0)


async def test_an_open_loop_sends_everything_on_time(choosy, bodies):
    """Each request is sent when it is due, whatever became of those before it, and each outcome is known."""
    target = Target.of(choosy, bodies(b"photo", b"", b"break"), timeout_ms=1000)

    outcomes = await open_loop.offer(target, [0.01 * n for n in range(30)], deadline_s=20.0)

    assert [o.status for o in outcomes] == [200, 503, 0] * 10
    assert all(o.sent >= o.due for o in outcomes)
    counted = open_loop.summary(outcomes, capacity=50.0, seconds=0.3, weights=(10.0, 12.0, 11.0), recovered_s=0.0)
    assert (counted.num_refused, counted.num_broken, counted.num_given_up) == (10, 10, 0)
    assert counted.num_in_time + counted.num_late == 10
    assert counted.memory_growth == pytest.approx(1.2)


async def test_an_open_loop_hangs_up_at_the_deadline(bodies):
    """A server that never answers costs a client its deadline and no more."""

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    async with await asyncio.start_server(never, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        target = Target.of(f"http://127.0.0.1:{port}/classify", bodies(b"photo"))
        outcomes = await open_loop.offer(target, [0.0, 0.0], deadline_s=0.05)

    assert [o.status for o in outcomes] == [open_loop.GIVEN_UP] * 2


async def test_a_closed_loop_goes_on_after_a_broken_connection(choosy, bodies):
    """A connection that breaks is counted and opened again."""
    target = Target.of(choosy, bodies(b"photo", b"break"))
    outcomes: list[Outcome] = []

    await client.closed(target, connections=2, is_over=lambda: len(outcomes) >= 8, outcomes=outcomes, keep_bodies=True)

    assert {o.status for o in outcomes} == {200, 0}
    assert {o.body for o in outcomes if o.status == 200} == {b'{"model": "g0000-000000"}'}


def test_recovery_is_the_first_second_at_full_speed():
    """Two slow seconds and then ten answers a second: recovered after two; never fast: not at all."""
    slow, fast = [0.5, 1.5], [2.0 + 0.1 * n for n in range(40)]

    assert open_loop.recovered(slow + fast, full_speed=9.5, watched_s=6.0) == pytest.approx(2.0, abs=0.11)
    assert open_loop.recovered(slow, full_speed=9.5, watched_s=6.0) is None


def test_a_swap_is_judged_by_the_second_around_it():
    """Slow requests count against a swap within half a second of it, and not outside."""
    steady = [outcome(0.1 * n) for n in range(90)]
    around = [outcome(10.0 + 0.1 * n, ms=300.0) for n in (-4, 0, 4)]
    outside = [outcome(11.0, ms=5000.0)]

    found = swaps.summary(
        [*steady, *around, *outside, outcome(12.0, status=0)],
        began=9.0,
        promoted=[9.5],
        seen=[10.0],
        settled=Memory(400.0, 390.0),
        last=Memory(420.0, 400.0),
    )

    assert found.slowdown == pytest.approx(3.0)
    assert (found.num_failed, found.worst_ms) == (1, pytest.approx(300.0))
    assert found.memory_growth == pytest.approx(1.05)


@pytest.fixture
def results() -> Results:
    """Two rounds in which ours was at the limit and a peer a little below it, the machine slowing down meanwhile."""
    limits = [Limit({"together, batch 1": rate, "apart, batch 1": rate / 2}, 13.0, 15.0) for rate in (90.0, 80.0)]
    ours = [closed(num_steady=880), closed(num_steady=780)]
    peer = [closed(p99_ms=900.0), closed(num_steady=700, p99_ms=900.0)]
    return Results(
        connections=[32],
        limits=limits,
        closed={("ours", 32): ours, ("litserve", 32): peer},
        beside={(name, 32): [Now(90.0, math.nan), Now(80.0, math.nan)] for name in ("ours", "litserve")},
        memory={"ours": [Memory(400.0, 390.0), Memory(460.0, 440.0)]},
    )


def test_ratios_are_of_what_was_measured_beside(results):
    """A machine that slows down does so for limit and server alike, and their ratio shows nothing of it."""
    assert results.best_arrangement == "together, batch 1"
    assert results.share_of_limit("ours", 32) == pytest.approx((88 / 90 + 78 / 80) / 2)


def test_every_target_is_judged(results):
    """A target that is met passes, one that is missed fails, and what was not measured is neither."""
    verdicts = {target.what: target.is_met for target in targets.every(results)}

    assert verdicts["32 connections: share of the limit"] is True
    assert verdicts["32 connections: requests/s"] is True
    assert verdicts["32 connections: p99 ms"] is True
    assert verdicts["memory with EfficientNet-B0 loaded, RSS in MB"] is False
    assert verdicts["swaps under load"] is None


def test_nothing_measured_passes_nothing():
    """A run without ours passes no target; a percentile of nothing is not a number, and not below any limit either."""
    assert {target.is_met for target in targets.every(Results([1, 8, 32, 64]))} == {None}
    assert math.isnan(client.percentile([], 99))
    assert sheets.at_most("p99", float("nan"), 50.0).is_met is False


def test_a_report_says_it_all(results, tmp_path):
    """The Markdown has the machine, the settings of everyone measured, the verdicts and what failed."""
    results.failures["bentoml"] = "it did not start"

    report.write(results, tmp_path / "RESULTS.md", {"processor": "a fast one"}, ["on an idle machine"])

    text = (tmp_path / "RESULTS.md").read_text()
    for expected in ("a fast one", "on an idle machine", "| 32 | Understudy | 83.0 |", "FAIL", "it did not start"):
        assert expected in text


def test_contestants_are_known_by_name():
    """The default is ours and three peers; a name that nobody bears is refused with those there are."""
    assert [taker.is_peer for taker in contestants.named(list(contestants.DEFAULT))] == [False, True, True, True]
    with pytest.raises(contestants.UnknownContestant, match="no contestant triton; there are ours"):
        contestants.named(["ours", "triton"])


def test_the_pipelines_targets_are_judged_and_kept(tmp_path):
    """What meets a target passes, what misses one fails; figures that were kept make the same report."""
    results = pipeline.Results(
        ingest=IngestMeasurement(1500, 82.0, 500.0, 27.0, 650.0, 0.77, 280.0),
        large_ingest=IngestMeasurement(90_000, 4900.0, 500.0, 27.0, 650.0, 0.77, 420.0),
        selection=[
            Figures(10, Cost(10.0, 900.0, "a"), Cost(7.0, 800.0, "a"), 0.7),
            Figures(50, Cost(50.0, 900.0, "b"), Cost(70.0, 1900.0, "b"), 1.4),
        ],
    )
    kept.write(results, tmp_path / "kept.json")

    verdicts = {target.what: target.is_met for target in pipeline.targets(results)}

    assert verdicts["ingest: share of the bare cost's rate"] is True
    assert verdicts["ingest of 4.9 GB: peak memory, MB"] is False
    assert verdicts["selection from 50 rows: time ÷ the bare query's"] is True
    assert verdicts["selection: time a row at 50 ÷ at 10"] is False
    assert kept.read(pipeline.Results, tmp_path / "kept.json") == results
    pipeline.write(results, tmp_path / "RESULTS.md", {"processor": "a fast one"})
    assert "| 90,000 | 4,900 |" in (tmp_path / "RESULTS.md").read_text()


def test_speed_of_training_is_judged_by_medians():
    """One slow turn decides nothing; without a GPU nothing is said of one."""
    figures = {
        "ours": speed.Figures(rates=[30.0, 33.0, 10.0]),
        "timm's script": speed.Figures(rates=[28.0, 20.0, 29.0]),
    }

    verdict, both = speed.report(figures, "a student", flops=1e9, peak=None)

    assert verdict.rows == [("images/s ÷ timm's script", "≥ 1.00", "1.07", "pass")]
    assert [row[1:] for row in both.rows] == [("30.0", "10.0–33.0", "–", "–"), ("28.0", "20.0–29.0", "–", "–")]
    figures["ours"].busy, figures["timm's script"].busy = [0.8, 0.9, 0.82], [0.5]
    verdict, both = speed.report(figures, "a student", flops=1e9, peak=1e12)
    assert verdict.rows[1][-1] == "FAIL"
    assert both.rows[0][3:] == ("82%", "3.0%")
