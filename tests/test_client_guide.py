"""docs/client.md: every example of it is run, in its order, against a real service with a real worker's code.

No student is trained: a trainer that the test is says that the gate refused it.
"""

import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from understudy import settings
from understudy.catalog import Catalog, claims, generations, shards
from understudy.catalog.tables import JobRow, LabelSetRow
from understudy.records import GateReport
from understudy.settings import ServiceSettings, WorkerSettings
from understudy.store import Store
from understudy.testing import picture, tiny_evaluation
from worker.label import label
from worker.resources import Resources
from worker.unpack import unpack

GUIDE = Path(__file__).parents[1] / "docs" / "client.md"
CLASSES = ("red", "green", "blue")


def refuse(catalog: Catalog, job_id: str, version: str) -> None:
    """End a generation as a trainer does whose student is not better."""
    claim = claims.claim(catalog, JobRow, job_id, lease_s=60)
    assert claim is not None
    seen = tiny_evaluation(version, CLASSES)
    report = GateReport(
        generation=0, challenger=seen, champion=seen, gain=None, alpha=0.05, class_floor=0.1, verdict="refuse",
        rule="mcnemar", reasons=("no gain is proved",),
    )  # fmt: skip
    generations.conclude(catalog, claim, 0, version, report)


@pytest.fixture
def working(
    opened: tuple[Catalog, Store], service_settings: ServiceSettings, serving: Callable[..., str], labeled_set: None
) -> Iterator[None]:
    """A champion that serves, a labeled set, and who does what waits: unpacking, labeling, training."""
    catalog, _ = opened
    champion = serving()
    shared = {name: getattr(service_settings, name) for name in ("data", "catalog_url", "store_url")}
    resources = Resources(*opened, settings.read(WorkerSettings, **shared, provider="cpu"), lambda task, work_id: None)
    stopped = threading.Event()

    def work() -> None:
        while not stopped.wait(0.05):
            if (waiting := generations.claimable(catalog)) is not None:
                refuse(catalog, waiting, champion)
            for job_id in claims.overdue(catalog, JobRow, limit=10):
                unpack(resources, job_id)
            shards.want_labels(catalog)
            for label_set in claims.overdue(catalog, LabelSetRow, limit=10):
                label(resources, label_set)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    yield
    stopped.set()
    thread.join()


@pytest.mark.usefixtures("working")
def test_every_example_of_the_guide_runs(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """With the folder that it speaks of there; what it prints is what it says."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, name in enumerate(("one.jpg", "two.jpg", "three.jpg")):
        (photos / name).write_bytes(picture(index, 3, image_format="JPEG"))
    (photos / "note.jpg").write_text("no image")
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", GUIDE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) >= 6

    for number, block in enumerate(blocks):
        code = block.replace("http://127.0.0.1:8000", url)
        if number == 0:
            names: dict[str, object] = {}
        exec(compile(code, f"docs/client.md, example {number + 1}", "exec"), names)

    printed = capsys.readouterr().out
    assert "photos/note.jpg not_an_image" in printed
    assert "3 accepted of 4" in printed
    assert "note.jpg quarantined not_an_image" in printed
    assert "the gate: no gain is proved" in printed
    assert "404 not_found there is no job 'nobody'" in printed
