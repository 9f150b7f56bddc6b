"""The champion's history and rollback over real HTTP."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import httpx
import pytest

from understudy.catalog import Catalog, claims, generations, jobs, keys, versions
from understudy.catalog.tables import JobRow
from understudy.client import Client, RequestFailed
from understudy.label_records import ClassYield, Selection
from understudy.records import (
    Generation,
    GenerationRequest,
    History,
    KeyScope,
    TrainingProgress,
    Validation,
    VersionState,
)
from understudy.settings import ServiceSettings
from understudy.store import Store
from understudy.testing import picture


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    """The library's own client of the running service."""
    with Client(url) as connected:
        yield connected


@pytest.fixture
def two(serving: Callable[..., str], http: httpx.Client) -> dict[str, Any]:
    """Two champions, the second of them serving; gives both entries of the history."""
    serving()
    serving(sharpness=5.0, generation=1)
    second, first = http.get("/models/champions").json()["items"]
    return {"first": first, "second": second}


def test_the_champion_of_a_time_may_be_asked_in_every_form_of_iso_8601(http: httpx.Client, two: dict[str, Any]):
    """With and without a fraction, in UTC, with an offset (its plus escaped or not), or naive, which is UTC."""
    shown = two["second"]["at"]
    then = datetime.fromisoformat(shown)
    later = then + timedelta(hours=1)
    east = later.astimezone(timezone(timedelta(hours=5, minutes=30)))
    forms = [shown, f"{later:%Y-%m-%dT%H:%M:%SZ}", f"{later:%Y-%m-%dT%H:%M:%S}", f"{later:%Y-%m-%d %H:%M:%S}"]
    for form in [*forms, east.isoformat(), later.isoformat()]:
        assert http.get("/models/champion", params={"at": form}).json()["id"] == two["second"]["version"], form
    unescaped = http.get(f"/models/champion?at={east.isoformat()}")
    assert unescaped.json()["id"] == two["second"]["version"]
    before = (then - timedelta(milliseconds=1)).isoformat()
    assert http.get("/models/champion", params={"at": before}).json()["id"] == two["first"]["version"]


def test_before_the_first_champion_and_after_now(http: httpx.Client, two: dict[str, Any]):
    """404 with a hint; a time to come is answered with the champion of now."""
    early = http.get("/models/champion", params={"at": "2001-01-01T00:00:00Z"})
    assert (early.status_code, early.json()["code"]) == (404, "not_found")
    assert "/models/champions" in early.json()["detail"]
    future = (datetime.now(UTC) + timedelta(days=3650)).isoformat()
    assert http.get("/models/champion", params={"at": future}).json()["id"] == two["second"]["version"]


@pytest.mark.parametrize("at", ["yesterday", "", "2026-13-01T00:00:00Z", "1e999", "\0"])
def test_what_is_no_time_is_refused(http: httpx.Client, at: str):
    """422 with what came."""
    answer = http.get("/models/champion", params={"at": at})
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_a_rollback_serves_within_seconds(http: httpx.Client, two: dict[str, Any], until: Callable[..., None]):
    """One call; the answers come from the former champion soon after, and the history says who and why."""
    answer = http.post("/models/rollback", json={"reason": "it calls every cat a dog"})
    assert answer.status_code == 200
    assert answer.json() | {"at": None} == {
        "sequence": 3,
        "version": two["first"]["version"],
        "at": None,
        "reason": "it calls every cat a dog",
        "actor": "anonymous",
    }
    until(lambda: http.post("/classify", content=picture(0, 3)).json()["model"] == two["first"]["version"], 10)
    assert http.get("/models/champion").json()["id"] == two["first"]["version"]
    again = http.post("/models/rollback", json={"reason": "further"})
    assert (again.status_code, again.json()["code"]) == (409, "no_former_champion")


def test_a_model_that_never_was_champion_cannot_be_rolled_back_to(
    http: httpx.Client, two: dict[str, Any], challenge: Callable[..., str]
):
    """409, and the champion stays; 404 for one that is not there."""
    challenger = challenge(sharpness=3.0)
    refused = http.post("/models/rollback", json={"version": challenger, "reason": "why not"})
    assert (refused.status_code, refused.json()["code"]) == (409, "never_champion")
    assert http.post("/models/rollback", json={"version": "g9-none", "reason": "x"}).status_code == 404
    assert http.get("/models/champion").json()["id"] == two["second"]["version"]


def test_what_the_gate_refused_is_promoted_with_a_reason(
    http: httpx.Client,
    two: dict[str, Any],
    challenge: Callable[..., str],
    opened: tuple[Catalog, Store],
    until: Callable[..., None],
):
    """It serves soon after, and the history says who and why; a challenger that was not judged is 409."""
    challenger = challenge(sharpness=3.0)
    early = http.post(f"/models/{challenger}/promote", json={"reason": "now"})
    assert (early.status_code, early.json()["code"]) == (409, "not_refused")
    with opened[0].write() as session:
        versions.judge(session, challenger, VersionState.REFUSED)
    assert http.post(f"/models/{challenger}/promote", json={}).status_code == 422
    assert http.post("/models/g9-none/promote", json={"reason": "x"}).status_code == 404

    done = http.post(f"/models/{challenger}/promote", json={"reason": "better on sevens"})

    assert (done.status_code, done.json()["version"]) == (200, challenger)
    assert (done.json()["reason"], done.json()["actor"]) == ("override: better on sevens", "anonymous")
    until(lambda: http.post("/classify", content=picture(0, 3)).json()["model"] == challenger, 10)


@pytest.mark.parametrize("body", [{}, {"reason": ""}, {"reason": "x", "to": "y"}, {"reason": "x" * 1001}, [], None])
def test_a_rollback_needs_a_reason(http: httpx.Client, body: Any):
    """422 for a body of another form."""
    assert http.post("/models/rollback", json=body).status_code == 422


def test_the_client_rolls_back_and_asks_for_the_past(url: str, two: dict[str, Any]):
    """The same by the Python client."""
    with Client(url) as client:
        assert client.rollback(two["first"]["version"], reason="test").version == two["first"]["version"]
        assert client.champion().id == two["first"]["version"]
        then = datetime.fromisoformat(two["second"]["at"])
        assert client.champion(at=then).id == two["second"]["version"]
        assert [c.sequence for c in client.champions()] == [3, 2, 1]


def test_where_keys_are_required_the_history_names_the_key(
    service_settings: ServiceSettings,
    served: Callable[..., AbstractContextManager[str]],
    opened: tuple[Catalog, Store],
    promote: Callable[..., str],
):
    """By its id; a key that may only classify may not roll back."""
    promote()
    promote(sharpness=5.0, generation=1)
    known, admin = keys.create(opened[0], name="ada", scopes=[KeyScope.ADMIN])
    _, classify = keys.create(opened[0], name="app", scopes=[KeyScope.CLASSIFY])
    with served(service_settings.model_copy(update={"keys": "required"})) as url, httpx.Client(base_url=url) as http:
        body = {"reason": "it fell ill"}
        assert http.post("/models/rollback", json=body, headers={"X-API-Key": classify}).status_code == 403
        done = http.post("/models/rollback", json=body, headers={"X-API-Key": admin})
    assert done.json()["actor"] == f"key {known.id}"


# -- generations in training ----------------------------------------------------------------------


@pytest.fixture
def training(opened: tuple[Catalog, Store], teaching: Callable[..., Any]) -> Generation:
    """A generation that a trainer has begun."""
    catalog, _ = opened
    teaching(*opened).shard(None, [picture(0, 3)], "a")
    generation = generations.open_generation(catalog, GenerationRequest())
    claim = claims.claim(catalog, JobRow, generation.job.id, lease_s=60)
    assert claim is not None
    jobs.progress(catalog, claim, "train", 3, 10, METRICS)
    return generation


@pytest.mark.usefixtures("training")
def test_the_list_of_generations_does_not_grow_with_the_classes(http: httpx.Client):
    """Each with its verdict in short; the whole report is in the generation itself."""
    (listed,) = http.get("/generations").json()["items"]
    whole = http.get("/generations/0").json()

    assert {name: listed[name] for name in listed if name != "report"} == {
        name: whole[name] for name in whole if name != "report"
    }
    assert listed["report"] is None


def test_one_key_opens_one_generation(http: httpx.Client, opened: tuple[Catalog, Store], teaching: Callable[..., Any]):
    """The same request again is the same generation, though one is open; another request is refused."""
    teaching(*opened).shard(None, [picture(0, 3)], "a")
    key = {"Idempotency-Key": "k1"}

    first, again = (http.post("/generations", json={"seed": 1}, headers=key) for _ in range(2))
    other = http.post("/generations", json={"seed": 2}, headers=key)
    without = http.post("/generations", json={"seed": 1})

    assert (first.status_code, again.status_code) == (202, 202)
    assert first.json() == again.json()
    assert (other.status_code, other.json()["code"]) == (409, "idempotency_mismatch")
    assert (without.status_code, without.json()["code"]) == (409, "conflict")


METRICS = TrainingProgress(step=3, num_steps=10, loss=1.5, labeled_loss=1.5, learning_rate=0.01, eta_s=7.0)


def test_a_generation_shows_the_newest_figures_of_its_training(http: httpx.Client, training: Generation):
    """Beside the step; what is not known yet is null."""
    job = http.get(f"/generations/{training.number}").json()["job"]

    assert (job["step"], job["done"], job["total"]) == ("train", 3, 10)
    assert job["metrics"] == METRICS.model_dump(mode="json")
    assert job["metrics"]["ema_accuracy"] is None


def test_the_curves_of_a_training_may_be_read_when_there_are_any(
    http: httpx.Client, url: str, training: Generation, opened: tuple[Catalog, Store]
):
    """404 with a problem before; then as the trainer has written them."""
    early = http.get("/generations/0/history")
    assert (early.status_code, early.json()["code"]) == (404, "not_found")
    assert early.json()["detail"] == "generation 0 (running) has no history.json yet"

    look = Validation(step=2, accuracy=0.5, num_images=10, seconds=0.1)
    history = History(num_steps=10, validations=(look,))
    opened[1].replace("generations/0000/history.json", history.to_json())
    with Client(url) as client:
        assert client.history(0) == history


@pytest.mark.parametrize(
    ("name", "media_type"),
    [("curves.png", "image/png"), ("augmented.jpg", "image/jpeg"), ("reliability.png", "image/png")],
)
def test_pictures_of_a_generation_are_served_when_they_are_made(
    http: httpx.Client, training: Generation, opened: tuple[Catalog, Store], name: str, media_type: str
):
    """With the type that a browser shows, and newer ones are asked for; 404 with a problem before."""
    early = http.get(f"/generations/0/pictures/{name}")
    assert (early.status_code, early.json()["code"]) == (404, "not_found")

    opened[1].replace(f"generations/0000/{name}", b"picture")

    answer = http.get(f"/generations/0/pictures/{name}")
    assert (answer.content, answer.headers["content-type"]) == (b"picture", media_type)
    assert answer.headers["cache-control"] == "no-cache"


def test_the_names_of_the_pictures_that_there_are_can_be_asked_for(
    client: Client, training: Generation, opened: tuple[Catalog, Store]
):
    """In an order that does not change; a generation that is not there is 404."""
    assert client.generation_pictures(0) == []
    for name in ("reliability.png", "augmented.jpg", "weights.safetensors"):
        opened[1].put(f"generations/0000/{name}", b"picture")
    assert client.generation_pictures(0) == ["augmented.jpg", "reliability.png"]
    with pytest.raises(RequestFailed, match="generation 7"):
        client.generation_pictures(7)


def test_a_generation_tells_its_plan_and_its_selection(
    client: Client, training: Generation, opened: tuple[Catalog, Store]
):
    """Once they are written. A plan with fields of another release is told all the same."""
    for ask in (client.generation_plan, client.selection):
        with pytest.raises(RequestFailed) as refused:
            ask(0)
        assert refused.value.status == 404
    plan = {
        "generation": 0, "recipe": {"name": "tiny", "asked": {}, "of_another_release": 3}, "student": "efficientnet",
        "num_parameters": 1000, "classes": ["red", "green"], "teacher": None, "seed": 0,
        "labeled_counts": {"red": 3, "green": 4}, "holdout": ["holdout/1.tar"],
    }  # fmt: skip
    opened[1].put("generations/0000/plan.json", json.dumps(plan).encode())
    chosen = Selection(
        classes=("red",), threshold=0.6, max_copies=3, num_candidates=4, num_kept=4, num_rows=6, starved=(), empty=(),
        per_class={"red": ClassYield(available=4, target=6, kept=4, rows=6)}, rows_sha256="0" * 64,
    )  # fmt: skip
    opened[1].put("generations/0000/selection.json", chosen.to_json())
    told = client.generation_plan(0)
    assert (told.student, told.recipe["of_another_release"], told.labeled_counts["green"]) == ("efficientnet", 3, 4)
    assert client.selection(0) == chosen


@pytest.mark.parametrize("name", ["plan.json", "weights.safetensors", "..%2F..%2Fcatalog.db", "curves.PNG"])
def test_nothing_but_pictures_is_served_of_a_generation(
    http: httpx.Client, training: Generation, opened: tuple[Catalog, Store], name: str
):
    """Names are of a fixed list."""
    opened[1].put("generations/0000/plan.json", b"{}")

    assert http.get(f"/generations/0/pictures/{name}").status_code in (404, 422)
    assert http.get("/generations/7/pictures/curves.png").status_code == 404
