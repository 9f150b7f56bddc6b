"""The whole loop by the command line: on this machine, or in a system that runs already, as `docker compose up` starts it:

pytest tests/e2e/test_composed.py --composed http://127.0.0.1:8000 --key us_...
"""

import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from understudy.client import Client
from understudy.local import Stack
from understudy.records import GenerationRequest, GenerationState, JobState
from understudy.testing import picture

CLASSES = ("amber", "jade", "lilac")
NUM_IMAGES = 60
#: The loop is looked at here, not how well a student learns.
SHORT = {"teacher_steps": 60, "student_steps": 40, "warmup_steps": 5}


@pytest.fixture
def composed(request: pytest.FixtureRequest) -> tuple[str, str | None]:
    """The address of the system, and a key of it with the scope admin; without an address, that of one of this test's own."""
    url = request.config.getoption("--composed")
    if not url:
        stack: Stack = request.getfixturevalue("stack")
        return stack.url, None
    return url, request.config.getoption("--key")


@pytest.fixture
def client(composed: tuple[str, str | None]) -> Iterator[Client]:
    """A client of the system."""
    with Client(composed[0], key=composed[1]) as connected:
        yield connected


@pytest.fixture
def understudy(composed: tuple[str, str | None]) -> Callable[..., str]:
    """Run a command as a person does; what it prints."""
    url, key = composed

    def run(*words: object) -> str:
        command = [sys.executable, "-m", "understudy", *map(str, words), "--url", url]
        done = subprocess.run([*command, *(["--key", key] if key else [])], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def pictures(folder: Path, count: int, *, in_folders: bool, first_seed: int) -> Path:
    """Coloured noise, in a folder a class or in none."""
    for i in range(count):
        place = folder / CLASSES[i % 3] if in_folders else folder
        place.mkdir(parents=True, exist_ok=True)
        seed = first_seed + i
        (place / f"{seed}.png").write_bytes(picture(i % 3, 3, seed=seed, size=16, noise=60))
    return folder


@pytest.mark.timeout(900)
@pytest.mark.thorough  # on this machine tests/docs/test_guide.py turns the same loop
def test_the_loop_turns_by_the_command_line(
    client: Client, understudy: Callable[..., str], tmp_path: Path, until: Callable[..., None]
):
    """Labels, a teacher, a bucket sent twice and labeled once, a student, an export, and the recall."""
    # 1. The first teacher; a system that has a champion already keeps it.
    bucket = f"b{uuid.uuid4().hex[:8]}"  # the same test again is another bucket with other images
    seed = uuid.uuid4().int % 10**6
    if client.readiness()["model"] is None:
        labeled = pictures(tmp_path / "labeled", 90, in_folders=True, first_seed=seed)
        job = client.labeled(labeled, request=GenerationRequest(recipe="tiny", overrides=SHORT))
        assert client.wait_for_job(job.id).state == JobState.SUCCEEDED
        first = client.wait_for_generation(0)
        assert first.state == GenerationState.PROMOTED, first
        client.wait_until_serving(first.version or "")

    # 2. A folder, sent twice: one job, and every image labeled.
    folder = pictures(tmp_path / "photos", NUM_IMAGES, in_folders=False, first_seed=seed + 1000)
    said = [json.loads(understudy("ingest", folder, "--bucket", bucket, "--json")) for _ in range(2)]
    assert said[0] == said[1]
    assert said[0][0]["result"]["accepted"] == NUM_IMAGES

    def is_labeled() -> bool:
        return {b.name: b.num_images_labeled for b in client.buckets()}[bucket] == NUM_IMAGES

    until(is_labeled, 120)

    # 3. A generation, whatever its verdict; what is promoted serves.
    opened = client.generate(GenerationRequest(recipe="tiny", seed=seed, overrides=SHORT))
    ended = client.wait_for_generation(opened.number)
    assert ended.state in (GenerationState.PROMOTED, GenerationState.REFUSED), ended
    if ended.state == GenerationState.PROMOTED:
        client.wait_until_serving(ended.version or "")

    # 4. An export of the bucket, with its images in a folder a class.
    understudy("export", "--bucket", bucket, "--format", "imagefolder", "--to", tmp_path / "out")
    exported = {path.read_bytes() for path in (tmp_path / "out").rglob("*.png")}
    assert exported == {path.read_bytes() for path in folder.glob("*.png")}

    # 5. The recall names the student.
    recall = json.loads(understudy("buckets", "delete", bucket, "--yes", "--json"))
    assert (recall["num_images"], recall["models"]) == (NUM_IMAGES, [ended.version])
    assert bucket not in {b.name for b in client.buckets()}
