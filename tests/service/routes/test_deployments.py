"""Shadow and canary over real HTTP, with real tiny models that agree, disagree, break or are slow."""

import base64
import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any

import httpx
import pytest

from understudy.client import Client
from understudy.errors import UnderstudyError
from understudy.records import DeploymentKind, DeploymentRequest, Limits
from understudy.settings import ServiceSettings
from understudy.testing import picture

LABELS = ("red", "green", "blue")
Challenge = Callable[..., str]
#: So that a test's few images are enough, and a busy machine is no reason to withdraw.
PATIENT: dict[str, Any] = {"min_images": 20, "max_latency_ratio": 1000, "min_agreement": 0}


def deploy(http: httpx.Client, version: str, kind: str, share: float = 1.0, **limits: Any) -> str:
    """Open a deployment, and wait until the process has the challenger; gives its id."""
    body = {"version": version, "kind": kind, "share": share, "limits": PATIENT | limits}
    answer = http.post("/deployments", json=body)
    assert answer.status_code == 201, answer.text
    assert http.get(answer.headers["location"]).json()["version"] == version
    return str(answer.json()["id"])


def metric(http: httpx.Client, name: str, *labels: str) -> float:
    """The sum of a metric's samples that have these labels."""
    lines = http.get("/metrics").text.splitlines()
    return sum(
        float(line.split()[-1])
        for line in lines
        if line.startswith((f"{name}{{", f"{name} ")) and all(x in line for x in labels)
    )


@pytest.fixture
def started(http: httpx.Client, until: Callable[..., None]) -> Callable[..., str]:
    """Deploy, and wait until the process gives the challenger its share."""

    def deployed(version: str, kind: str, share: float = 1.0, **limits: Any) -> str:
        deployment_id = deploy(http, version, kind, share, **limits)
        until(lambda: metric(http, "understudy_deployment_share", version) == share)
        return deployment_id

    return deployed


def ask(http: httpx.Client, number: int) -> tuple[str, str]:
    """Classify one picture; gives the model that answered, and the label."""
    answer = http.post("/classify", content=picture(number % 3, 3, seed=number))
    assert answer.status_code == 200, answer.text
    return answer.json()["model"], answer.json()["predictions"][0]["label"]


def state(http: httpx.Client, deployment_id: str) -> dict[str, Any]:
    return dict(http.get(f"/deployments/{deployment_id}").json())


def withdrawn(http: httpx.Client, deployment_id: str) -> bool:
    return state(http, deployment_id)["state"] == "withdrawn"


def test_a_shadow_never_answers_and_its_agreement_is_exact(
    http: httpx.Client,
    serving: Callable[..., str],
    challenge: Challenge,
    started: Callable[..., str],
    until: Callable[..., None],
):
    """It names every colour otherwise: agreement 0, and every answer is the champion's."""
    champion = serving()
    challenger = challenge(rotated_by=1, generation=1)
    made = started(challenger, "shadow")
    for number in range(30):
        assert ask(http, number) == (champion, LABELS[number % 3])
        # One after the other: a queue of comparisons that is full would skip some.
        done = number + 1
        until(lambda done=done: metric(http, "understudy_deployment_compared_images_total", challenger) == done)
    until(lambda: state(http, made)["counts"]["compared_images"] == 30)
    seen = state(http, made)
    assert (seen["agreement"], seen["state"]) == (0.0, "active")
    assert seen["counts"]["champion_images"] == seen["counts"]["challenger_images"] == 30
    assert seen["champion_latency_ms"] > 0
    assert seen["challenger_latency_ms"] > 0
    assert metric(http, "understudy_deployment_compared_images_total", challenger, "disagreed") == 30
    assert metric(http, "understudy_classified_images_total", challenger) == 0


def test_a_shadow_that_agrees_says_so(
    http: httpx.Client,
    serving: Callable[..., str],
    challenge: Challenge,
    started: Callable[..., str],
    until: Callable[..., None],
):
    """Several images a request, one of them no image: every good one is compared."""
    serving()
    made = started(challenge(sharpness=5.0, generation=1), "shadow")
    files = [("file", (f"{n}.png", picture(n % 3, 3))) for n in range(6)] + [("file", ("x.png", b"nonsense"))]
    http.post("/classify", files=files)
    until(lambda: state(http, made)["counts"]["compared_images"] == 6)
    assert state(http, made)["agreement"] == 1.0


def test_a_canary_answers_its_share_and_names_itself(
    http: httpx.Client, serving: Callable[..., str], challenge: Challenge, started: Callable[..., str]
):
    """About half of 200 requests, by chance (five standard deviations); each answer is what the named model says."""
    champion = serving()
    challenger = challenge(rotated_by=1, generation=1)
    random.seed(11)
    started(challenger, "canary", 0.5)
    seen = Counter()
    for number in range(200):
        model, label = ask(http, number)
        seen[model] += 1
        assert (label == LABELS[number % 3]) is (model == champion)
    assert set(seen) == {champion, challenger}
    assert 65 <= seen[challenger] <= 135


def test_a_canary_that_breaks_harms_nobody_and_is_withdrawn(
    http: httpx.Client,
    serving: Callable[..., str],
    challenge: Challenge,
    started: Callable[..., str],
    until: Callable[..., None],
):
    """Its every answer is NaN: the champion answers instead, and after a few it is over, with the reason."""
    champion = serving()
    broken = challenge(is_fragile=True, generation=1)
    made = started(broken, "canary", 0.5)

    def is_over() -> bool:
        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(lambda number: ask(http, number), range(8)))
        assert answers == [(champion, LABELS[number % 3]) for number in range(8)]
        return withdrawn(http, made)

    until(is_over)
    over = state(http, made)
    assert "requests failed" in over["reason"]
    assert "not finite" in over["reason"]
    assert over["counts"]["champion_errors"] == 0
    assert over["ended_by"] is None
    until(lambda: metric(http, "understudy_deployment_share") == 0)
    assert metric(http, "understudy_deployments_withdrawn_total", "errors") == 1
    assert metric(http, "understudy_deployment_errors_total", broken, "challenger") >= 1
    assert ask(http, 0)[0] == champion


def test_a_canary_that_is_slower_than_its_limit_is_withdrawn(
    http: httpx.Client,
    serving: Callable[..., str],
    challenge: Challenge,
    started: Callable[..., str],
    until: Callable[..., None],
):
    """It looks at a thousand times a thousand pixels where the champion looks at eight times eight."""
    champion = serving()
    made = started(challenge(size=1024, generation=1), "canary", 0.5, max_latency_ratio=1.5, min_images=10)

    def is_over() -> bool:
        for number in range(4):
            assert ask(http, number)[1] == LABELS[number % 3]
        return withdrawn(http, made)

    until(is_over)
    assert "the limit is 1.5 times" in state(http, made)["reason"]
    until(lambda: ask(http, 0)[0] == champion)


def test_a_canary_that_disagrees_too_much_is_withdrawn(
    http: httpx.Client,
    serving: Callable[..., str],
    challenge: Challenge,
    started: Callable[..., str],
    until: Callable[..., None],
):
    """The champion is asked about the canary's images as well, unseen."""
    serving()
    made = started(challenge(rotated_by=1, generation=1), "canary", 0.5, min_agreement=0.9)

    def is_over() -> bool:
        ask(http, 1)
        return withdrawn(http, made)

    until(is_over)
    assert "agrees with the champion on 0.0%" in state(http, made)["reason"]


def test_a_challenger_that_cannot_be_loaded_is_withdrawn(
    http: httpx.Client, serving: Callable[..., str], challenge: Challenge, until: Callable[..., None]
):
    """Its file is damaged: the reason is where one looks for it."""
    champion = serving()
    made = deploy(http, challenge(damaged=True, generation=1), "canary")
    until(lambda: withdrawn(http, made))
    assert "cannot be loaded" in state(http, made)["reason"]
    assert ask(http, 0)[0] == champion
    assert metric(http, "understudy_deployments_withdrawn_total", "load") == 1


@pytest.fixture
def other(served: Callable[..., AbstractContextManager[str]], service_settings: ServiceSettings) -> Iterator[Any]:
    """A client of a second process on the same catalog."""
    with served(service_settings) as address, httpx.Client(base_url=address, timeout=30) as client:
        yield client


def infer(http: httpx.Client, name: str, path: str = "") -> tuple[str, int]:
    """Ask for one red picture by the Open Inference Protocol; gives the version that answered, and the class."""
    encoded = base64.b64encode(picture(0, 3)).decode()
    pixels = [255 if channel == 0 else 0 for _ in range(8 * 8) for channel in range(3)]
    given = {"image": ([1], "BYTES", [encoded]), "pixels": ([1, 8, 8, 3], "UINT8", pixels)}
    shape, datatype, data = given[name]
    body = {"inputs": [{"name": name, "shape": shape, "datatype": datatype, "data": data}]}
    answer = http.post(f"/v2/models/understudy{path}/infer", json=body)
    assert answer.status_code == 200, answer.text
    row = answer.json()["outputs"][0]["data"]
    return answer.json()["model_version"], row.index(max(row))


def test_the_inference_protocol_is_live_traffic_too(
    http: httpx.Client, serving: Callable[..., str], challenge: Challenge, started: Callable[..., str]
):
    """A canary answers images and pixels; a request that names a version gets that one."""
    champion = serving()
    challenger = challenge(rotated_by=1, generation=1)
    started(challenger, "canary")
    assert [infer(http, name) for name in ("image", "pixels")] == [(challenger, 2)] * 2
    assert infer(http, "image", f"/versions/{champion}") == (champion, 0)


def test_pixels_go_to_a_canary_only_if_they_have_its_size(
    http: httpx.Client,
    serving: Callable[..., str],
    challenge: Challenge,
    started: Callable[..., str],
):
    """They are cut to the champion's; encoded images fit every model."""
    champion = serving()
    challenger = challenge(size=16, generation=1)
    made = started(challenger, "canary")
    assert infer(http, "image") == (challenger, 0)
    assert infer(http, "pixels") == (champion, 0)
    assert state(http, made)["counts"]["challenger_errors"] == 0


def test_all_processes_begin_and_stop_together(
    http: httpx.Client,
    other: httpx.Client,
    serving: Callable[..., str],
    challenge: Challenge,
    started: Callable[..., str],
    until: Callable[..., None],
):
    """What one process counts is enough to stop the other, which was never asked."""
    champion = serving()
    broken = challenge(is_fragile=True, generation=1)
    made = started(broken, "canary")
    until(lambda: metric(other, "understudy_deployment_share", broken) == 1)

    def is_over() -> bool:
        assert ask(http, 0)[0] == champion
        return withdrawn(http, made)

    until(is_over)
    until(lambda: metric(other, "understudy_deployment_share", broken) == 0)
    assert metric(other, "understudy_deployment_errors_total") == 0
    assert ask(other, 0)[0] == champion
    assert metric(other, "understudy_deployment_errors_total") == 0


def test_a_promoted_challenger_ends_its_deployment(
    http: httpx.Client,
    serving: Callable[..., str],
    challenge: Challenge,
    promote: Callable[..., str],
    started: Callable[..., str],
    until: Callable[..., None],
):
    """While clients ask: no request fails, and then it answers everything."""
    serving()
    challenger = challenge(sharpness=5.0, generation=1)
    made = started(challenger, "canary", 0.5)
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(ask, http, number) for number in range(200)]
        assert promote(sharpness=5.0, generation=1) == challenger
        assert [future.result()[1] for future in asked] == [LABELS[number % 3] for number in range(200)]
    over = state(http, made)
    assert (over["state"], over["reason"]) == ("ended", f"promoted: {challenger} is the champion now")
    until(lambda: metric(http, "understudy_deployment_share") == 0)
    until(lambda: http.get("/readyz").json()["model"] == challenger)
    assert ask(http, 0)[0] == challenger


# -- asking for it --------------------------------------------------------------------------------


def test_of_two_deployments_asked_for_at_once_one_is_made(
    http: httpx.Client, serving: Callable[..., str], challenge: Challenge
):
    """The other is told that one is active: 409."""
    serving()
    versions = [challenge(sharpness=3.0 + n, generation=1) for n in range(2)]

    def opened(version: str) -> httpx.Response:
        return http.post("/deployments", json={"version": version, "kind": "shadow", "share": 0.1})

    with ThreadPoolExecutor(2) as pool:
        answers = sorted(pool.map(opened, versions), key=lambda answer: answer.status_code)
    assert [answer.status_code for answer in answers] == [201, 409]
    assert answers[1].json()["code"] == "deployment_active"
    assert [d["id"] for d in http.get("/deployments").json()["items"]] == [answers[0].json()["id"]]


@pytest.mark.parametrize(
    "change",
    [
        {"share": 0},
        {"share": 1.01},
        {"share": "NaN"},
        {"share": None},
        {"kind": "blue-green"},
        {"version": ""},
        {"version": "\0"},
        {"version": "x" * 65},
        {"limits": {"min_images": 0}},
        {"limits": {"max_latency_ratio": "Infinity"}},
        {"limits": {"max_latency": 1}},
        {"reason": "none of its fields"},
    ],
)
def test_what_makes_no_sense_is_refused(
    http: httpx.Client, serving: Callable[..., str], challenge: Challenge, change: dict[str, Any]
):
    """422 with what came."""
    serving()
    body = {"version": challenge(generation=1, sharpness=3.0), "kind": "shadow", "share": 0.1} | change
    answer = http.post("/deployments", json=body)
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


def test_numbers_that_are_none_are_refused(http: httpx.Client):
    """Python's JSON reads NaN and Infinity; no limit is one."""
    body = '{"version": "g1", "kind": "shadow", "share": NaN, "limits": {"max_latency_ratio": Infinity}}'
    answer = http.post("/deployments", content=body, headers={"content-type": "application/json"})
    assert answer.status_code == 422


def test_what_cannot_be_compared_is_refused(http: httpx.Client, serving: Callable[..., str], challenge: Challenge):
    """Before there is a champion, the champion itself, an unknown version, other classes: a problem each."""

    def refusal(version: str) -> tuple[int, str]:
        answer = http.post("/deployments", json={"version": version, "kind": "canary", "share": 0.1})
        assert answer.headers["content-type"] == "application/problem+json"
        return answer.status_code, answer.json()["code"]

    assert refusal(challenge(generation=1)) == (503, "no_champion")
    champion = serving()
    assert refusal(champion) == (409, "is_champion")
    assert refusal("g0001-nobody") == (404, "not_found")
    assert refusal(challenge(("red", "blue", "green"), generation=2)) == (409, "other_classes")
    assert http.get("/deployments").json() == {"items": [], "next": None}


def test_a_deployment_is_ended_once_and_with_a_reason(
    http: httpx.Client, serving: Callable[..., str], challenge: Challenge, started: Callable[..., str], until: Any
):
    """Then the champion answers everything again; ending it twice is a conflict."""
    champion = serving()
    made = started(challenge(sharpness=5.0, generation=1), "canary")
    assert http.post(f"/deployments/{made}/end", json={}).status_code == 422
    ended = http.post(f"/deployments/{made}/end", json={"reason": "seen enough"})
    assert ended.status_code == 200
    assert (ended.json()["state"], ended.json()["reason"], ended.json()["ended_by"]) == (
        "ended",
        "seen enough",
        "anonymous",
    )
    until(lambda: metric(http, "understudy_deployment_share") == 0)
    assert ask(http, 0)[0] == champion
    again = http.post(f"/deployments/{made}/end", json={"reason": "twice"})
    assert (again.status_code, again.json()["code"]) == (409, "deployment_over")
    for path in ("/deployments/none", "/deployments/none/end"):
        answer = http.post(path, json={"reason": "x"}) if path.endswith("end") else http.get(path)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


def test_the_client_deploys_looks_and_ends(url: str, serving: Callable[..., str], challenge: Challenge):
    """The same by the Python client."""
    serving()
    request = DeploymentRequest(
        version=challenge(sharpness=3.0, generation=1), kind=DeploymentKind.SHADOW, share=0.1, limits=Limits()
    )
    with Client(url) as client:
        made = client.deploy(request)
        assert [d.id for d in client.deployments()] == [made.id]
        assert client.deployment(made.id).share == 0.1
        assert client.end_deployment(made.id, reason="enough").reason == "enough"
        with pytest.raises(UnderstudyError, match="enough"):
            client.end_deployment(made.id, reason="again")
