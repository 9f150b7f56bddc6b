"""``python -m benchmarks.serving``: measure everything in one run, show it, and write it down if asked to."""

import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from benchmarks import machine
from benchmarks.serving import contestants, limit, open_loop, peer_environment, photos, report, servers, swaps, wrk
from benchmarks.serving import several as several_images
from benchmarks.serving.contestants import OURS, Contestant, Place
from benchmarks.serving.limit import BATCHES, Beside
from benchmarks.serving.photos import Bodies, BodyKind
from benchmarks.serving.results import Now, Results
from benchmarks.serving.servers import Running

#: Every server gets this much load before it is measured.
WARM_UP_S, WARM_UP_CONNECTIONS = 2, 8
#: A server that does not notice that its clients have gone works for them a while; the limit is measured after that.
SETTLE_S = 2.0
#: Roughly what it takes to start and stop a server, and to export the models, on two cores; for the estimate only.
START_S, EXPORT_S, SWAP_S = 5, 25, 2.0

#: Characters of a failure that are shown; the end of a log says most.
MAX_FAILURE = 300
#: Tables are wide; what is no terminal gets this many columns.
FILE_WIDTH = 150

app = typer.Typer(add_completion=False)


@dataclass(frozen=True)
class Plan:
    """What is to be measured, for how long."""

    takers: list[Contestant]
    connections: list[int]
    seconds: int
    rounds: int
    overload_s: int  #: 0: no open loop
    num_swaps: int  #: 0: none

    @property
    def limit_s(self) -> float:
        """For each arrangement of the in-process work."""
        return max(self.seconds / 3, 1.0)

    @property
    def beside_s(self) -> float:
        """For the fastest of them, before and after each closed loop."""
        return max(self.seconds / 4, 0.5)

    @property
    def estimate_s(self) -> float:
        arrangements = 2 * len(BATCHES) + 1
        first = self.rounds * (arrangements * self.limit_s + 3)
        beside_s = (len(self.connections) + 1 + 2 * (1 in self.connections)) * self.beside_s
        a_server_s = START_S + WARM_UP_S + len(self.connections) * (self.seconds + SETTLE_S) + beside_s
        closed = self.rounds * len(self.takers) * a_server_s
        around = START_S + 1 + open_loop.BEFORE_S + open_loop.AFTER_S
        overload = len(self.takers) * (around + self.overload_s) if self.overload_s else 0
        swapping = START_S + 12 + self.num_swaps * SWAP_S if self.num_swaps else 0
        return EXPORT_S + first + closed + overload + swapping


@dataclass(frozen=True)
class Workplace:
    """The folder of one run: data, photos, logs; gone when it ends."""

    folder: Path
    data: Path
    models: list[str]  #: two versions, the first of which serves
    bodies: dict[BodyKind, Bodies]

    @property
    def model(self) -> Path:
        return self.data / "store" / "models" / self.models[0]


@app.command(help=__doc__)
def main(
    peers: Annotated[str, typer.Option(help="who takes part, in this order")] = ",".join(contestants.DEFAULT),
    connections: Annotated[str, typer.Option(help="of the closed loop")] = "1,8,32,64",
    seconds: Annotated[int, typer.Option(min=1, help="of each closed loop")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="in each of which every server is measured once")] = 3,
    overload_seconds: Annotated[int, typer.Option(min=0, help="of the open loop; 0: none")] = 8,
    num_swaps: Annotated[int, typer.Option("--swaps", min=0, help="under load; 0: none")] = swaps.NUM_SWAPS,
    quick: Annotated[bool, typer.Option("--quick", help="one short round and ten swaps: to see that it works")] = False,
    write: Annotated[Path | None, typer.Option("--report", help="file to write the results to, as Markdown")] = None,
) -> None:
    console = Console(width=None if sys.stdout.isatty() else FILE_WIDTH)
    try:
        counts = _counts(connections)
        takers = contestants.named(peers.split(","))
        plan = Plan(takers, counts, seconds, rounds, overload_seconds, num_swaps)
        if quick:
            plan = Plan(takers, counts, seconds=2, rounds=1, overload_s=4, num_swaps=min(num_swaps, 10))
        wrk.find()
        results, described = measure(plan, console)
    except (
        ValueError,
        contestants.UnknownContestant,
        wrk.WrkFailed,
        servers.ServerFailed,
        peer_environment.InstallationFailed,
    ) as error:
        console.print(f"[red]error[/red]: {error}", highlight=False, soft_wrap=True)
        raise typer.Exit(2) from error
    report.show(results, console)
    if write is not None:
        report.write(results, write, described, conditions(plan))
        console.print(f"written to {write}")


def _counts(text: str) -> list[int]:
    """Read ``1,8,32``. Raises ValueError saying what may stand there."""
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ValueError(f"--connections {text!r}: give numbers from 1 up with commas between them, such as 1,8,32")
    return [int(part) for part in parts]


def conditions(plan: Plan) -> list[str]:
    """What holds for every figure of a run."""
    return [
        "EfficientNet-B0 at 224 px, 1,000 classes, random weights; 32 photos of 500 × 375, JPEG of 37 to 77 KB; every "
        "contestant decodes and resizes with the same function and runs the same ONNX file.",
        "Server and client share the cores of this machine; the client (wrk) needs a few hundredths of one.",
        f"{plan.rounds} rounds; in each, every server is started, warmed up for {WARM_UP_S} s, loaded for {plan.seconds} s at "
        f"each number of connections, weighed and stopped. Before and after each of these loads the limit is measured again "
        f"for {plan.beside_s:.0f} s, and the share of it is of the mean of these two; figures are medians over the rounds.",
    ]


def measure(plan: Plan, console: Console) -> tuple[Results, dict[str, str]]:
    """Everything, in order; the machine is described before it is put to work."""
    if any(taker.is_peer for taker in plan.takers) and not peer_environment.is_current():
        with console.status("installing the peers into benchmarks/serving/.venv (about a minute and 600 MB, once)"):
            peer_environment.make()
    described = machine.describe(contestants.OUR_PACKAGES)
    if peer_environment.is_current():
        described["peers"] = peer_environment.versions()
    if os.getloadavg()[0] > 0.5:
        console.print(
            f"[yellow]this machine is not idle (load {os.getloadavg()[0]:.1f}); figures will be poor[/yellow]"
        )
    console.print(f"This takes about {plan.estimate_s / 60:.0f} minutes.", highlight=False)
    results = Results(plan.connections)
    with tempfile.TemporaryDirectory(prefix="serving-benchmark") as folder, _progress(console) as bar:
        place = _prepare(Path(folder), bar)
        _closed_loops(plan, place, results, bar)
        _open_loops(plan, place, results, bar)
        if plan.num_swaps and OURS in plan.takers:
            _swaps(plan, place, results, bar)
        if machine.has_gpu() and OURS in plan.takers:
            _several(plan, place, results, bar)
    return results, described


def _prepare(folder: Path, bar: Progress) -> Workplace:
    task = bar.add_task("export two EfficientNet-B0", total=1)
    data = folder / "data"
    models = json.loads(_run("benchmarks.serving.model", str(data)))
    bodies = photos.write(photos.make(), folder / "photos")
    bar.update(task, completed=1)
    return Workplace(folder, data, models, bodies)


def _run(module: str, *arguments: str) -> str:
    """What a program of ours prints, in a process of its own: what it loads is gone when it ends."""
    environment = os.environ | {"PYTHONPATH": str(servers.ROOT)}
    command = [sys.executable, "-m", module, *arguments]
    ended = subprocess.run(command, cwd=servers.ROOT, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise servers.ServerFailed(f"{module} ended with {ended.returncode}: {ended.stderr.strip()[-1000:]}")
    return ended.stdout


@contextmanager
def _started(taker: Contestant, place: Workplace, **environment: str) -> Iterator[Running]:
    port = servers.free_port()
    at = Place(place.data, place.model, port)
    log = place.folder / f"{taker.name}-{time.time_ns()}.log"
    url = f"http://127.0.0.1:{port}/classify"
    chosen = {**taker.environment(at), **environment}
    with servers.running(taker.command(at), chosen, url, place.bodies[taker.body], log) as server:
        wrk.run(url, place.bodies[taker.body], connections=WARM_UP_CONNECTIONS, seconds=WARM_UP_S)
        yield server


def _closed_loops(plan: Plan, place: Workplace, results: Results, bar: Progress) -> None:
    """Round by round, so that a machine that grows slower does so for everybody."""
    for number in range(1, plan.rounds + 1):
        task = bar.add_task(f"round {number}: the limit", total=1 + len(plan.takers) * len(plan.connections))
        with limit.running(place.model, place.bodies["raw"].folder, seconds=plan.limit_s) as beside:
            results.limits.append(beside.limit)
            bar.advance(task)
            first = (number - 1) % len(plan.takers)  # each begins in its turn: nobody always follows the same one
            for taker in plan.takers[first:] + plan.takers[:first]:
                bar.update(task, description=f"round {number}: {taker.title}")
                with _excused(taker, results), _started(taker, place) as server:
                    _closed_loop(taker, server, beside, plan, place, results, bar, task)
        bar.update(task, description=f"round {number}")


def _closed_loop(
    taker: Contestant,
    server: Running,
    beside: Beside,
    plan: Plan,
    place: Workplace,
    results: Results,
    bar: Progress,
    task: TaskID,
) -> None:
    """In turns with the limit, while the server stands by idle."""
    before = beside.rate(plan.beside_s)
    for count in plan.connections:
        alone = [beside.single_ms(plan.beside_s)] if count == 1 else []
        run = wrk.run(server.url, place.bodies[taker.body], connections=count, seconds=plan.seconds)
        time.sleep(SETTLE_S)
        alone += [beside.single_ms(plan.beside_s)] if count == 1 else []
        after = beside.rate(plan.beside_s)
        now = Now((before + after) / 2, sum(alone) / 2 if alone else math.nan)
        results.closed.setdefault((taker.name, count), []).append(run)
        results.beside.setdefault((taker.name, count), []).append(now)
        before = after
        bar.advance(task)
    results.memory.setdefault(taker.name, []).append(server.memory())


def _open_loops(plan: Plan, place: Workplace, results: Results, bar: Progress) -> None:
    if not plan.overload_s:
        return
    task = bar.add_task("overload", total=len(plan.takers))
    for taker in plan.takers:
        bar.update(task, description=f"overload: {taker.title}")
        with _excused(taker, results), _started(taker, place) as server:
            bodies = place.bodies[taker.body]
            results.open_loop[taker.name] = uvloop.run(open_loop.run(server, bodies, seconds=plan.overload_s))
        bar.advance(task)


@contextmanager
def _excused(taker: Contestant, results: Results) -> Iterator[None]:
    """One that fails is reported, and the run goes on."""
    try:
        yield
    except (servers.ServerFailed, wrk.WrkFailed, open_loop.NoCapacity, swaps.SwapFailed) as error:
        results.failures[taker.name] = f"…{' '.join(str(error).split())[-MAX_FAILURE:]}"


def _swaps(plan: Plan, place: Workplace, results: Results, bar: Progress) -> None:
    task = bar.add_task("swaps under load", total=plan.num_swaps)
    bodies = place.bodies[OURS.body]
    with _excused(OURS, results), _started(OURS, place, UNDERSTUDY_CHAMPION_POLL_S=str(swaps.POLL_S)) as server:
        results.swaps = uvloop.run(
            swaps.run(
                server, bodies, place.data, place.models, num_swaps=plan.num_swaps, on_swap=lambda: bar.advance(task)
            )
        )


def _several(plan: Plan, place: Workplace, results: Results, bar: Progress) -> None:
    task = bar.add_task("several images a request on the GPU", total=1)
    rates = {
        int(batch): rate for batch, rate in json.loads(_run("benchmarks.serving.several", str(place.model))).items()
    }
    number = several_images.IMAGES_PER_REQUEST
    bodies = photos.write_several(photos.make(), place.folder / "photos" / "several", per_request=number)
    with _excused(OURS, results), _started(OURS, place, UNDERSTUDY_PROVIDER="cuda") as server:
        results.several = several_images.through_http(server.url, bodies, rates, seconds=plan.seconds)
    bar.advance(task)


def _progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console)


if __name__ == "__main__":
    app()
