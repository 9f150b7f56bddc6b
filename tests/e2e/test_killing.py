"""``kill -9`` in the middle: what was accepted is labeled, and exactly once."""

import io
import os
import signal
from collections import Counter
from collections.abc import Callable

import pytest

from understudy import labels, settings
from understudy.catalog import Catalog, shards
from understudy.client import Client
from understudy.local import Stack
from understudy.records import GenerationRequest, GenerationState, JobState
from understudy.settings import Settings
from understudy.shards import read_manifest
from understudy.store import Store
from understudy.testing import picture

Pictures = Callable[..., io.BytesIO]
#: Ends in seconds: these tests are about killing, not about accuracy.
SHORT = {
    "recipe": "tiny",
    "seed": 1,
    "overrides": {"teacher_steps": 80, "student_steps": 80, "warmup_steps": 10},
}


def first_teacher(client: Client, pictures: Pictures) -> str:
    """A champion to label with."""
    job = client.labeled(
        pictures(60, in_folders=True),
        pictures(150, first_seed=1000, in_folders=True),
        request=GenerationRequest(**SHORT),
    )
    assert client.wait_for_job(job.id).state == JobState.SUCCEEDED
    ended = client.wait_for_generation(0)
    assert ended.state == GenerationState.PROMOTED, ended
    assert ended.version is not None
    client.wait_until_serving(ended.version)
    return ended.version


def kill(stack: Stack, program: str) -> None:
    """``kill -9`` of a program and all its pool processes."""
    os.killpg(stack.supervisor.pids()[program], signal.SIGKILL)


@pytest.mark.thorough
def test_a_worker_killed_in_the_middle_of_labeling_leaves_every_image_labeled_exactly_once(
    stack: Stack, client: Client, pictures: Pictures, until: Callable[..., None]
):
    """Three kills while it unpacks and labels; then the ledger: accepted = labeled, nothing twice, nothing else."""
    teacher = first_teacher(client, pictures)
    num_sent, num_uploads = 900, 6
    sent = [client.ingest("b", pictures(num_sent, first_seed=10_000 * (n + 1), size=96)) for n in range(num_uploads)]

    def num_labeled() -> int:
        return sum(b.num_images_labeled for b in client.buckets())

    for share in (0.01, 0.3, 0.6):
        until(lambda share=share: num_labeled() >= share * num_sent * num_uploads)
        kill(stack, "worker")
    results = [client.wait_for_job(job.id) for job in sent]
    assert [job.state for job in results] == [JobState.SUCCEEDED] * num_uploads
    assert all(job.result and job.result["accepted"] == job.result["entries"] == num_sent for job in results)
    until(lambda: num_labeled() == num_sent * num_uploads, 120)

    read = settings.read(Settings, data=stack.data)
    catalog, store = Catalog(read.catalog_url), Store(read.store_url)
    published = shards.published_labels(catalog, teacher)
    sealed = shards.of_split(catalog, "unlabeled")
    catalog.close()
    assert sorted(task.shard.id for task in published) == sorted(shard.id for shard in sealed)
    accepted = Counter(m.sha256 for shard in sealed for m in read_manifest(store, shard.key).members)
    rows = labels.query(store, [task.key or "" for task in published], "SELECT sha256, count(*) FROM labels GROUP BY 1")
    assert len(accepted) == num_sent * num_uploads
    assert set(accepted.values()) == {1}
    assert dict(zip(*rows.to_pydict().values(), strict=True)) == accepted


def test_redis_killed_with_all_its_data_costs_time_and_nothing_else(
    stack: Stack, client: Client, pictures: Pictures, until: Callable[..., None]
):
    """The queue is a doorbell: emptied with work waiting, the reconciler rings again; classify never notices."""
    first_teacher(client, pictures)
    os.kill(stack.supervisor.pids()["worker"], signal.SIGSTOP)  # let work pile up
    jobs = [client.ingest("b", pictures(30, first_seed=10_000 * n)) for n in range(1, 4)]
    for file in (stack.data / "redis").rglob("*.aof*"):
        file.unlink()
    kill(stack, "redis")
    kill(stack, "worker")
    assert client.classify(picture(0, 3)).model
    assert all(client.wait_for_job(job.id).state == JobState.SUCCEEDED for job in jobs)
    until(lambda: sum(b.num_images_labeled for b in client.buckets()) == 90)


@pytest.mark.thorough
def test_a_trainer_killed_in_the_middle_goes_on_from_its_checkpoint(
    stack: Stack, client: Client, pictures: Pictures, until: Callable[..., None], log_lines: list[str]
):
    """One generation, two attempts, one model version."""
    client.labeled(
        pictures(60, in_folders=True),
        pictures(150, first_seed=1000, in_folders=True),
        request=GenerationRequest(**SHORT),
    )
    until(lambda: bool(client.generations()))
    until(lambda: client.generation(0).job.step == "train" and client.generation(0).job.done > 120)
    kill(stack, "trainer")
    ended = client.wait_for_generation(0)
    assert ended.state == GenerationState.PROMOTED, ended
    assert ended.job.attempt == 2
    assert [model.id for model in client.models()] == [ended.version]
