"""``DELETE /buckets/{name}`` over real HTTP, and the command that asks for it."""

import json
from collections.abc import Callable

import httpx
from sqlalchemy import update
from typer.testing import CliRunner

from understudy.catalog import Catalog, buckets, claims, generations, jobs, shards
from understudy.catalog.tables import GenerationRow, JobRow
from understudy.cli import commands
from understudy.records import GenerationRequest, JobKind, ShardManifest, ShardMember
from understudy.store import Store, generation_key

Opened = tuple[Catalog, Store]


def fill(catalog: Catalog, bucket: str | None, digit: str) -> str:
    """A shard of one image; gives its key."""
    split = "labeled" if bucket is None else "unlabeled"
    kind = JobKind.LABELED if bucket is None else JobKind.INGEST
    job = jobs.received(catalog, jobs.open_upload(catalog, kind, bucket=bucket, params={}).id, [])
    claim = claims.claim(catalog, JobRow, job.id, lease_s=60)
    assert claim is not None
    member = ShardMember(
        sha256=digit * 64, name="a", offset=512, num_bytes=1, width=1, height=1, format="PNG",
        class_name="red" if bucket is None else None,
    )  # fmt: skip
    key = "labeled/a.tar" if bucket is None else f"shards/{buckets.folder(catalog, bucket)}/{digit}.tar"
    shards.seal(
        catalog, claim,
        ShardManifest(key=key, sha256="1" * 64, num_bytes=1, split=split, bucket=bucket, members=(member,)), [0],
    )  # fmt: skip
    return key


def test_a_recall_names_the_models_that_learned_from_the_bucket(
    http: httpx.Client, opened: Opened, url: str, serving: Callable[..., str]
):
    """The one that was trained on it and the one that this taught; looking first removes nothing."""
    catalog, store = opened
    first, second = serving(), serving(sharpness=5.0)
    shard = fill(catalog, "b", "1")
    fill(catalog, None, "2")
    for number, (teacher, version) in enumerate(((None, first), (first, second))):
        generations.open_generation(catalog, GenerationRequest())
        with catalog.write() as session:
            of_number = update(GenerationRow).where(GenerationRow.number == number)
            session.execute(of_number.values(state="promoted", teacher=teacher, version=version))
        frozen = {"shards": [shard] if number == 0 else []}
        store.put(generation_key(number, "labels.json"), json.dumps(frozen).encode())

    command = ["buckets", "delete", "b", "--dry-run", "--json", "--url", url]
    would_be = json.loads(CliRunner().invoke(commands.app, command).stdout)
    assert (would_be["dry_run"], would_be["num_images"]) == (True, 1)
    assert (would_be["models"], would_be["descendants"]) == ([first], [second])
    listed = CliRunner().invoke(commands.app, ["buckets", "--json", "--url", url]).stdout
    assert [b["name"] for b in json.loads(listed)] == ["b"]

    done = CliRunner().invoke(commands.app, ["buckets", "delete", "b", "--yes", "--url", url])
    assert (
        f"b: removed 1 images, 1 shards, 1 label sets and 0 reviews; 1 unfinished jobs ended\nmodels trained on it: {first}"
        in (done.stdout)
    )
    assert http.get("/buckets").json()["items"] == []
    gone = http.delete("/buckets/b")
    assert (gone.status_code, gone.json()["code"]) == (404, "not_found")
