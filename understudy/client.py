"""The REST client: what the command line and the demo use, and anybody may.

Synchronous and typed; it answers with the same frozen records that the service has. What may be done twice (reading,
and what bears an Idempotency-Key) is tried again while the service is away for a moment; what could act twice is
not, unless it was surely not heard. The only door to httpx.
"""

import contextlib
import hashlib
import io
import json
import ssl
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import IO, Any, TypeVar, overload

import httpx

from understudy import packing
from understudy.errors import NotReady, SettingsRefused, UnderstudyError
from understudy.generation_records import ComparedImage, Comparison, GenerationPlan, PairOutcome
from understudy.label_records import LabelFacets, PreviewRequest, PseudoLabel, Selection, SelectionPreview
from understudy.packing import Packed
from understudy.records import (
    BucketSummary,
    Championship,
    Classified,
    Delivery,
    Deployment,
    DeploymentEnd,
    DeploymentRequest,
    ExportFile,
    ExportRequest,
    Generation,
    GenerationRequest,
    GenerationState,
    GenerationSummary,
    History,
    Job,
    JobKind,
    JobState,
    LoopPause,
    LoopState,
    ModelFile,
    ModelVersion,
    NewWebhook,
    Outcome,
    Override,
    Prediction,
    Problem,
    Recall,
    ReceiptEntry,
    Record,
    RemoteSource,
    Rollback,
    UploadState,
    Webhook,
    WebhookEvent,
    WebhookRequest,
)
from understudy.review_records import Audit, Decision, Review, ReviewQueue, ReviewRequest, ReviewUndo
from understudy.store import sha256_of
from understudy.work_records import Holding, LabelFault, ShardMap, Tried

DEFAULT_URL = "http://127.0.0.1:8000"
#: What may be tried again is, for this long while nobody answers: a restarted service is back by then.
PATIENCE_S = 30.0
#: Between two tries at most this long, unless the service asks for more with Retry-After.
MAX_PAUSE_S = 2.0
#: Look this often whether a job has come further.
POLL_S = 0.3
#: Ask for so many pseudo-labels at a time: as many as the service gives.
PAGE_ITEMS = 1000
#: Read files in pieces of this size while sending them.
CHUNK_BYTES = 2**20
#: Images that are classified in one request: half of what the service takes by default, in number and in bytes.
IMAGES_AT_ONCE, BYTES_AT_ONCE = 32, 32 * 2**20

#: These say how the system stands, not that the service is away: to ask again in a second will not help.
STANDING = frozenset({"not_ready", "no_champion"})
#: Of these a request was refused before anything was done for it.
UNHEARD = frozenset({"not_connected", "rate_limited"})

R = TypeVar("R", bound=Record)


class RequestFailed(UnderstudyError):
    """The service answered with a problem, or not at all. ``status`` is None if it did not answer.

    ``code`` is for programs, ``detail`` for people. Under ``request_id`` the service's log has more, if it answered.
    """

    code = "request_failed"

    def __init__(
        self,
        message: str,
        *,
        code: str,
        status: int | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        is_fault = status is not None and status >= 500 and request_id is not None and status != 503
        super().__init__(f"{message} (request {request_id})" if is_fault else message, code=code)
        self.detail, self.status, self.request_id = message, status, request_id
        self.retry_after_s = retry_after_s  #: as the service asked; None: it did not


class Client:
    """A connection to one service. Close it, or use it as a context manager. Threads may share it.

    ``key`` is an API key; None where the service asks for none. ``timeout_s`` is how long one answer may take,
    ``patience_s`` for how long what may be tried again is: a service that has never answered is not waited for.
    Raises SettingsRefused for a bad URL or key.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        key: str | None = None,
        timeout_s: float = 60.0,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self.url, self._patience_s = url.rstrip("/"), patience_s
        headers = {} if key is None else {"authorization": f"Bearer {_checked(key)}"}
        # Without TLS the system's certificates need not be read, which takes longer than most answers.
        verify = self.url.startswith("https:") or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            self._http = httpx.Client(
                base_url=self.url, timeout=timeout_s, mounts=_DIRECT, headers=headers, verify=verify
            )
        except httpx.InvalidURL as error:
            raise SettingsRefused(f"{url!r} is no address ({error}); write it as {DEFAULT_URL}") from error
        self._was_there = False  # whether anybody has ever answered at this address

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    # -- asking -------------------------------------------------------------------------------

    def classify(self, image: bytes | Path, *, top_k: int = 5) -> Classified:
        """Classify one image, given as its encoded bytes or as a file. Raises RequestFailed if it is none."""
        data = image.read_bytes() if isinstance(image, Path) else image
        said = self._send_again("POST", "/classify", params={"top_k": top_k}, content=data, headers=_BINARY)
        return Classified(**said)

    def classify_with(self, version: str, image: bytes, *, top_k: int = 5) -> Tried:
        """Ask one version, whether it serves or not, about one encoded image. It is loaded for this question."""
        said = self._send_again(
            "POST", f"/models/{version}/classify", params={"top_k": top_k}, content=image, headers=_BINARY
        )
        return Tried(**said)

    def classify_many(self, images: Iterable[bytes | Path], *, top_k: int = 5) -> Iterator[Classified]:
        """Classify images, many in a request; gives an answer of one prediction for each, in their order.

        An image that cannot be used does not stop the others: its prediction has the problem. Images are read
        while they are sent, a request's worth at a time.
        """
        waiting: list[tuple[str | None, bytes]] = []
        for image in images:
            named = (image.name, image.read_bytes()) if isinstance(image, Path) else (None, image)
            num_bytes = sum(len(data) for _, data in waiting) + len(named[1])
            if waiting and (len(waiting) == IMAGES_AT_ONCE or num_bytes > BYTES_AT_ONCE):
                yield from self._classify(waiting, top_k)
                waiting = []
            waiting.append(named)
        if waiting:
            yield from self._classify(waiting, top_k)

    def _classify(self, named: list[tuple[str | None, bytes]], top_k: int) -> Iterator[Classified]:
        files = [("file", ("image", data)) for _, data in named]
        try:
            said = self._send_again("POST", "/classify", params={"top_k": top_k}, files=files)
        except RequestFailed as error:
            if len(named) > 1 or error.status not in (415, 422) or error.code == "invalid_request":
                raise
            refused = Prediction(name=named[0][0], problem=Problem(code=error.code, detail=error.detail))
            yield Classified(model=str(self.readiness().get("model")), predictions=(refused,))
            return
        answer = Classified(**said)
        for (name, _), prediction in zip(named, answer.predictions, strict=True):
            yield Classified(model=answer.model, predictions=(prediction.model_copy(update={"name": name}),))

    def readiness(self) -> dict[str, Any]:
        """What ``/readyz`` says, whether ready or not. Not retried."""
        try:
            said = dict(self._http.get("/readyz").json())
        except (httpx.HTTPError, ValueError) as error:
            raise self._away(error) from error
        self._was_there = True
        return said

    def job(self, job_id: str) -> Job:
        """One job."""
        return Job(**self._get(f"/jobs/{job_id}"))

    def receipt(self, job_id: str, *, first: int = 0) -> Iterator[ReceiptEntry]:
        """Every line of an upload's receipt, from the ``first`` entry on."""
        cursor: str | None = str(first)
        while cursor is not None:
            page = self._get(f"/jobs/{job_id}/receipt", cursor=cursor)
            yield from (ReceiptEntry(**item) for item in page["items"])
            cursor = page["next"]

    def receipt_as(self, job_id: str, format: str, *, only: Outcome | None = None) -> Iterator[bytes]:
        """A receipt as ``ndjson`` or ``csv``, in pieces as they arrive; ``only`` the lines of one outcome."""
        params = {"format": format} | ({"only": only.value} if only else {})
        try:
            with self._http.stream("GET", f"/jobs/{job_id}/receipt", params=params) as response:
                if response.is_success:
                    yield from response.iter_bytes()
                    return
        except httpx.HTTPError as error:
            raise self._away(error) from error
        self._get(f"/jobs/{job_id}/receipt")  # raises what it answered

    def retry_quarantine(self, job_id: str) -> Job:
        """A new job of what is kept of a job's quarantined entries."""
        return Job(**self._send("POST", f"/jobs/{job_id}/quarantine/retry"))

    def buckets(self) -> list[BucketSummary]:
        """Every bucket."""
        return self._items("/buckets", BucketSummary)

    def sources(self) -> Iterator[RemoteSource]:
        """Every remote source, without the counts of its objects."""
        cursor: str | None = None
        while True:
            page = self._get("/sources", **({"cursor": cursor} if cursor else {}))
            yield from (RemoteSource(**item) for item in page["items"])
            if (cursor := page["next"]) is None:
                return

    def source(self, source_id: str) -> RemoteSource:
        """One remote source, with the counts of its objects."""
        return RemoteSource(**self._get(f"/sources/{source_id}"))

    def pseudo_labels(self, *, limit: int | None = None, **filters: Any) -> Iterator[PseudoLabel]:
        """What a teacher says of the unlabeled images; ``filters`` are the parameters of ``GET /pseudo-labels``.

        ``class`` is a word of Python: write it ``class_name``. ``limit`` None: all of them, page by page.
        """
        cursor: str | None = None
        while limit is None or limit > 0:
            some, cursor = self.pseudo_label_page(limit=min(limit or PAGE_ITEMS, PAGE_ITEMS), cursor=cursor, **filters)
            yield from some
            limit = None if limit is None else limit - len(some)
            if cursor is None:
                return

    def pseudo_label_page(self, *, limit: int, **filters: Any) -> tuple[list[PseudoLabel], str | None]:
        """One page of ``pseudo_labels``, and the ``cursor`` of the next; None: it was the last."""
        if "class_name" in filters:
            filters["class"] = filters.pop("class_name")
        asked = {name: value for name, value in filters.items() if value is not None}
        page = self._get("/pseudo-labels", **asked, limit=limit)
        return [PseudoLabel(**item) for item in page["items"]], page["next"]

    def label_facets(
        self, *, teacher: str | None = None, bucket: str | None = None, with_changed: bool = False
    ) -> LabelFacets:
        """How many pseudo-labels there are, by class and confidence, by bucket and by teacher."""
        asked = {"teacher": teacher, "bucket": bucket, "with_changed": with_changed}
        return LabelFacets(**self._get("/pseudo-labels/facets", **{k: v for k, v in asked.items() if v is not None}))

    def preview(self, request: PreviewRequest | None = None) -> SelectionPreview:
        """What a generation would select now, and how right it may be expected to be."""
        body = (request or PreviewRequest()).model_dump(mode="json")
        return SelectionPreview(**self._send("POST", "/selections/preview", json=body))

    def labels_of(self, sha256: str) -> list[PseudoLabel]:
        """What every teacher says of one image."""
        return self._items(f"/images/{sha256}/labels", PseudoLabel)

    def review_queue(self, by: str = "uncertain", **filters: Any) -> ReviewQueue:
        """A page of the images to review: ``uncertain``, ``disagreement`` or ``audit``, what helps most first.

        ``filters`` are the parameters of ``GET /reviews/queue``; ``class`` is written ``class_name``. For more, give
        ``next`` of a page as ``cursor``, or ask again when these are reviewed.
        """
        if "class_name" in filters:
            filters["class"] = filters.pop("class_name")
        asked = {name: value for name, value in filters.items() if value is not None}
        return ReviewQueue(**self._get("/reviews/queue", by=by, **asked))

    def reviews(self, *, limit: int | None = None, **filters: Any) -> Iterator[Review]:
        """What people said of pseudo-labels, the newest first; ``filters`` are the parameters of ``GET /reviews``.

        ``counting=True`` is what counts now. ``limit`` None: all of them, page by page.
        """
        asked = {name: value for name, value in filters.items() if value is not None}
        cursor: dict[str, str] = {}
        while limit is None or limit > 0:
            page = self._get("/reviews", **asked, **cursor, limit=min(limit or PAGE_ITEMS, PAGE_ITEMS))
            yield from (Review(**item) for item in page["items"])
            limit = None if limit is None else limit - len(page["items"])
            if page["next"] is None:
                return
            cursor = {"cursor": page["next"]}

    def audit(self, *, teacher: str | None = None, threshold: float | None = None) -> Audit:
        """How right a teacher's pseudo-labels are from a confidence on, by its blind audit; None: as the next selection."""
        asked = {"teacher": teacher, "threshold": threshold}
        return Audit(**self._get("/reviews/audit", **{k: v for k, v in asked.items() if v is not None}))

    def picture(self, sha256: str, *, size: int | None = None) -> bytes:
        """An accepted image as it was sent; with ``size`` a JPEG of at most so many pixels a side."""
        return self._bytes(f"/images/{sha256}", **({} if size is None else {"size": size}))

    def quarantined(self, job_id: str, index: int, *, size: int | None = None) -> bytes:
        """The bytes of a quarantined entry, if they were kept; with ``size`` a JPEG of what can be seen of it."""
        return self._bytes(f"/jobs/{job_id}/quarantine/{index}", **({} if size is None else {"size": size}))

    def delete_bucket(self, name: str, *, dry_run: bool = False) -> Recall:
        """Delete a bucket; says what was removed, or would be, and which models were trained on it."""
        return Recall(**self._send("DELETE", f"/buckets/{name}", params={"dry_run": dry_run}))

    def models(self) -> list[ModelVersion]:
        """Every model version, the newest first."""
        return self._items("/models", ModelVersion)

    def model(self, version: str) -> ModelVersion:
        """One model version."""
        return ModelVersion(**self._get(f"/models/{version}"))

    def model_files(self, version: str) -> list[ModelFile]:
        """The files of a model version."""
        return self._items(f"/models/{version}/files", ModelFile)

    def download_model(self, version: str, file: ModelFile, to: Path) -> None:
        """One file of a model, whole and checked, or none; as ``download`` does."""
        self._fetch(f"/models/{version}/files/{file.name}", file.num_bytes, file.sha256, to)

    def generations(self) -> list[GenerationSummary]:
        """Every generation, the newest first, each with its verdict in short; ``generation`` has the whole report."""
        return self._items("/generations", GenerationSummary)

    def generation(self, number: int) -> Generation:
        """One generation."""
        return Generation(**self._get(f"/generations/{number}"))

    def generation_picture(self, number: int, name: str) -> bytes:
        """A picture that was drawn of a generation, such as ``curves.png``."""
        return self._bytes(f"/generations/{number}/pictures/{name}")

    def generation_pictures(self, number: int) -> list[str]:
        """The names of the pictures that there are of a generation by now."""
        return [str(name) for name in self._get(f"/generations/{number}/pictures")["items"]]

    def generation_plan(self, number: int) -> GenerationPlan:
        """What a generation was frozen to. Raises RequestFailed (404) until it is."""
        return GenerationPlan(**self._get(f"/generations/{number}/plan"))

    def selection(self, number: int) -> Selection:
        """Which pseudo-labels a generation trains on, in numbers. Raises RequestFailed (404) while there are none."""
        return Selection(**self._get(f"/generations/{number}/selection"))

    def comparison(self, challenger: str, champion: str) -> Comparison:
        """Two versions on the same holdout images, counted."""
        return Comparison(**self._get("/comparisons", challenger=challenger, champion=champion))

    def compared_images(
        self,
        challenger: str,
        champion: str,
        *,
        outcome: PairOutcome | None = None,
        class_name: str | None = None,
        limit: int | None = None,
    ) -> Iterator[ComparedImage]:
        """The holdout images that two versions were both asked; ``limit`` None: all of them, page by page."""
        pair = {"challenger": challenger, "champion": champion}
        only = {name: value for name, value in (("outcome", outcome), ("class", class_name)) if value is not None}
        cursor: str | None = "0"
        while cursor is not None and (limit is None or limit > 0):
            asked = min(limit or PAGE_ITEMS, PAGE_ITEMS)
            page = self._get("/comparisons/images", **pair, **only, cursor=cursor, limit=asked)
            yield from (ComparedImage(**item) for item in page["items"])
            limit = None if limit is None else limit - len(page["items"])
            cursor = page["next"]

    def metrics(self) -> str:
        """What ``/metrics`` says of this process of the service, in Prometheus' text format."""
        return self._bytes("/metrics").decode()

    def jobs(self, *, limit: int = 100, kind: JobKind | None = None, state: JobState | None = None) -> list[Job]:
        """The newest jobs first; of one kind, or in one state."""
        asked = {name: value.value for name, value in (("kind", kind), ("state", state)) if value is not None}
        return [Job(**item) for item in self._get("/jobs", limit=limit, **asked)["items"]]

    def work(self, *, limit: int = 200) -> list[Holding]:
        """What programs have claimed at this moment, and who."""
        return [Holding(**item) for item in self._get("/work", limit=limit)["items"]]

    def shard_map(self, *, version: str | None = None, **part: Any) -> ShardMap:
        """Where a teacher's labeling of every shard stands; ``part``: the other parameters of ``GET /label-sets``."""
        asked = {"version": version, **part}
        return ShardMap(**self._get("/label-sets", **{k: v for k, v in asked.items() if v is not None}))

    def failed_labels(self, *, version: str | None = None, limit: int = 100) -> list[LabelFault]:
        """Shards that a teacher, None: the champion, could not label."""
        asked: dict[str, Any] = {"limit": limit} | ({} if version is None else {"version": version})
        return [LabelFault(**item) for item in self._get("/label-sets/failed", **asked)["items"]]

    def retry_job(self, job_id: str) -> Job:
        """Have a failed job tried again."""
        return Job(**self._send("POST", f"/jobs/{job_id}/retry"))

    # -- sending ------------------------------------------------------------------------------

    def ingest(
        self,
        bucket: str,
        source: Path | IO[bytes],
        *,
        key: str | None = None,
        on_bytes: Callable[[int, int], None] = lambda sent, total: None,
    ) -> Job:
        """Send unlabeled images: a zip or tar, an image file, or a folder (packed as a tar on the way).

        Streamed, never whole in memory. Two calls with the same ``key`` and the same bytes make one job; without a
        key every call is another one. What is large, ``upload`` sends in parts.
        """
        with _packed(source) as (file, name, size):
            content = _Reading(file, size, on_bytes)
            params = {"bucket": bucket, "name": name}
            said = self._send_once("/ingest", key, params=params, content=content, headers=_BINARY)
        return Job(**said)

    def relay(self, bucket: str, chunks: Iterator[bytes], *, name: str, media_type: str = "") -> Job:
        """Send unlabeled images that come from elsewhere as they come; ``media_type`` as there, if it is multipart.

        Never tried again: what has come is gone.
        """
        headers = {"content-type": media_type} if media_type else _BINARY
        params = {"bucket": bucket, "name": name}
        return Job(**self._sent("POST", "/ingest", params=params, content=chunks, headers=headers))

    def add_source(self, bucket: str, url: str) -> Job:
        """Have workers take unlabeled images from ``s3://``, ``gs://`` or ``https://``; gives the sync's job."""
        return Job(**self._send("POST", "/sources", json={"bucket": bucket, "url": url}))

    def sync(self, source_id: str) -> Job:
        """Have workers take what is new in a source; gives the sync's job."""
        return Job(**self._send("POST", f"/sources/{source_id}/sync"))

    def upload(
        self,
        bucket: str,
        packed: Packed,
        *,
        key: str | None = None,
        on_bytes: Callable[[int, int], None] = lambda sent, total: None,
    ) -> Job:
        """Send something large in parts; goes on where an earlier call with the same ``key`` was broken off.

        ``on_bytes`` is told of what has arrived, parts of earlier calls included. The service may be away for
        a while: a part that was not answered is sent again. Without a key every call is a new upload.
        """
        headers = {} if key is None else {"Idempotency-Key": key}
        body = {"bucket": bucket, "name": packed.name, "num_bytes": packed.num_bytes}
        state = UploadState(**self._send_again("POST", "/uploads", json=body, headers=headers))
        arrived = packed.num_bytes - sum(_part_of(state, number)[1] for number in state.missing)
        on_bytes(arrived, packed.num_bytes)
        for number in state.missing:
            part = packed.part(*_part_of(state, number))
            path = f"/uploads/{state.id}/parts/{number}"
            query = {"sha256": hashlib.sha256(part).hexdigest()}
            self._send_again("PUT", path, params=query, content=part, headers=_BINARY)
            arrived += len(part)
            on_bytes(arrived, packed.num_bytes)
        if state.state != JobState.RECEIVING:  # it was complete before
            return self.job(state.id)
        return Job(**self._send_again("POST", f"/uploads/{state.id}/complete"))

    def review(self, decisions: Sequence[Decision]) -> list[Review]:
        """Say of up to 1,000 images what they are, all or none; the same again changes nothing, so it is retried."""
        body = ReviewRequest(reviews=tuple(decisions)).model_dump(mode="json")
        return [Review(**item) for item in self._send_again("POST", "/reviews", json=body)["items"]]

    def undo_reviews(self, ids: Sequence[int]) -> list[Review]:
        """Have reviews count no more; what was said of the images before counts again."""
        body = ReviewUndo(ids=tuple(ids)).model_dump(mode="json")
        return [Review(**item) for item in self._send_again("POST", "/reviews/undo", json=body)["items"]]

    def export(self, request: ExportRequest, *, key: str | None = None) -> Job:
        """Begin an export; its files are there when the job has succeeded."""
        return Job(**self._send_once("/exports", key, json=request.model_dump(mode="json")))

    def export_files(self, export_id: str) -> Iterator[ExportFile]:
        """Every file of an export that has succeeded."""
        cursor: str | None = "0"
        while cursor is not None:
            page = self._get(f"/exports/{export_id}/files", cursor=cursor)
            yield from (ExportFile(**item) for item in page["items"])
            cursor = page["next"]

    def download(self, export_id: str, file: ExportFile, to: Path) -> None:
        """One file of an export, whole and checked, or none; goes on where an earlier call was broken off.

        Raises RequestFailed, with the code damaged_download if the bytes are not those that the service wrote.
        """
        self._fetch(f"/exports/{export_id}/files/{file.name}", file.num_bytes, file.sha256, to)

    def _fetch(self, path: str, num_bytes: int, sha256: str | None, to: Path) -> None:
        """A file of the service under its name here when it is whole, and is what it should be where that is known."""
        if to.exists():  # it was checked before it got its name
            return
        part = to.with_name(f".{to.name}.part")
        with part.open("ab") as into:
            self._append(path, into, num_bytes)
        if part.stat().st_size != num_bytes or (sha256 is not None and sha256_of(part) != sha256):
            part.unlink()
            raise RequestFailed(f"{to.name} has arrived damaged; download it again", code="damaged_download")
        part.rename(to)

    def _append(self, path: str, into: IO[bytes], num_bytes: int) -> None:
        """What is missing of a file, after what is there of it."""
        deadline = time.monotonic() + self._patience_s
        while (there := into.seek(0, io.SEEK_END)) < num_bytes:
            try:
                with self._http.stream("GET", path, headers={"Range": f"bytes={there}-"}) as answer:
                    if answer.status_code != (206 if there else 200):
                        answer.read()
                        raise RequestFailed(answer.text[:200], code="request_failed", status=answer.status_code)
                    for chunk in answer.iter_bytes(CHUNK_BYTES):
                        into.write(chunk)
            except httpx.HTTPError as error:
                if time.monotonic() > deadline:
                    raise self._away(error) from error
                time.sleep(POLL_S)

    def labeled(
        self,
        labeled: Path | IO[bytes] | Packed | None = None,
        holdout: Path | IO[bytes] | Packed | None = None,
        *,
        holdout_fraction: float | None = None,
        request: GenerationRequest | None = None,
        key: str | None = None,
    ) -> Job:
        """Send human-labeled images, one folder a class, or a holdout, or both; the first set opens generation 0.

        What other tools exported, ``understudy.annotations.reading`` packs this way.

        Without a holdout, ``holdout_fraction`` of each class is frozen as one; None: 0.2 of the first set.
        Two calls with the same ``key`` and the same images make one job. Raises ValueError where nothing is sent.
        """
        sent = {name: files for name, files in (("labeled", labeled), ("holdout", holdout)) if files is not None}
        if not sent:
            raise ValueError("there is nothing to send: name labeled images, a holdout, or both")
        asked = (request or GenerationRequest()).model_dump(exclude_none=True)
        asked["overrides"] = json.dumps(asked["overrides"])
        params = asked if holdout_fraction is None else asked | {"holdout_fraction": holdout_fraction}
        with ExitStack() as stack:
            opened = {field: stack.enter_context(_packed(one)) for field, one in sent.items()}
            files = {field: (name, file) for field, (file, name, _) in opened.items()}
            return Job(**self._send_once("/labeled", key, params=params, files=files))

    def weights(self, file: Path) -> str:
        """Send pretrained weights (safetensors); gives the sha-256 to name them by."""
        with file.open("rb") as opened:
            content = _Reading(opened, file.stat().st_size, lambda sent, total: None)
            # They are named by their content: sent twice they are there once.
            return str(self._send_again("POST", "/weights", content=content, headers=_BINARY)["sha256"])

    def generate(self, request: GenerationRequest | None = None, *, key: str | None = None) -> Generation:
        """Open the next generation. Two calls with the same ``key`` and the same request open one."""
        body = (request or GenerationRequest()).model_dump(mode="json")
        return Generation(**self._send_once("/generations", key, json=body))

    def loop(self) -> LoopState:
        """Where the loop stands, and what starts next."""
        return LoopState(**self._get("/loop"))

    def pause(self, *, reason: str) -> LoopState:
        """Begin nothing new: no label set, no generation. What runs goes on to its end."""
        return LoopState(**self._send_again("POST", "/loop/pause", json=LoopPause(reason=reason).model_dump()))

    def resume(self) -> LoopState:
        """Let a paused loop go on."""
        return LoopState(**self._send_again("POST", "/loop/resume"))

    def champions(self) -> list[Championship]:
        """Every champion that there was, the newest first."""
        return self._items("/models/champions", Championship)

    def champion(self, at: datetime | None = None) -> ModelVersion:
        """The version that serves, or that served at a time (UTC unless it says)."""
        return ModelVersion(**self._get("/models/champion", **({"at": at.isoformat()} if at else {})))

    def rollback(self, version: str | None = None, *, reason: str) -> Championship:
        """Make a former champion serve again; None: the one that the champion took over from."""
        body = Rollback(version=version, reason=reason).model_dump(mode="json")
        return Championship(**self._send("POST", "/models/rollback", json=body))

    def promote(self, version: str, *, reason: str) -> Championship:
        """Make what the gate refused serve, against its verdict."""
        body = Override(reason=reason).model_dump(mode="json")
        return Championship(**self._send("POST", f"/models/{version}/promote", json=body))

    def deploy(self, request: DeploymentRequest) -> Deployment:
        """Give a challenger a share of the live traffic, as a shadow or a canary."""
        return Deployment(**self._send("POST", "/deployments", json=request.model_dump(mode="json")))

    def deployments(self) -> list[Deployment]:
        """The deployments, the newest first."""
        return self._items("/deployments", Deployment)

    def deployment(self, deployment_id: str) -> Deployment:
        """One deployment, with what was counted so far."""
        return Deployment(**self._get(f"/deployments/{deployment_id}"))

    def end_deployment(self, deployment_id: str, *, reason: str) -> Deployment:
        """Take a challenger off the traffic."""
        body = DeploymentEnd(reason=reason).model_dump(mode="json")
        return Deployment(**self._send("POST", f"/deployments/{deployment_id}/end", json=body))

    def add_webhook(
        self, url: str, *, events: Sequence[WebhookEvent] = tuple(WebhookEvent), description: str = ""
    ) -> NewWebhook:
        """Have a URL told of events. The answer is the only one with the secret that signs."""
        asked = WebhookRequest(url=url, events=tuple(events), description=description)
        return NewWebhook(**self._send("POST", "/webhooks", json=asked.model_dump(mode="json")))

    def webhooks(self) -> list[Webhook]:
        """Every webhook, without its secret."""
        return self._items("/webhooks", Webhook)

    def webhook(self, webhook_id: str) -> Webhook:
        """One webhook, without its secret."""
        return Webhook(**self._get(f"/webhooks/{webhook_id}"))

    def remove_webhook(self, webhook_id: str) -> Webhook:
        """Tell it nothing more; gives what it was."""
        return Webhook(**self._send("DELETE", f"/webhooks/{webhook_id}"))

    def rotate_webhook(self, webhook_id: str) -> NewWebhook:
        """Give it another secret; for a day the old one signs too."""
        return NewWebhook(**self._send("POST", f"/webhooks/{webhook_id}/rotate"))

    def ping_webhook(self, webhook_id: str) -> Delivery:
        """Send it a ping; ``webhook_delivery`` says what came of it."""
        return Delivery(**self._send("POST", f"/webhooks/{webhook_id}/ping"))

    def webhook_deliveries(self, webhook_id: str) -> Iterator[Delivery]:
        """What it was told, or is to be, the newest first."""
        cursor: dict[str, str] = {}
        while True:
            page = self._get(f"/webhooks/{webhook_id}/deliveries", **cursor)
            yield from (Delivery(**item) for item in page["items"])
            if page["next"] is None:
                return
            cursor = {"cursor": page["next"]}

    def webhook_delivery(self, webhook_id: str, delivery_id: int) -> Delivery:
        """One delivery, with every attempt."""
        return Delivery(**self._get(f"/webhooks/{webhook_id}/deliveries/{delivery_id}"))

    def redeliver(self, webhook_id: str, delivery_id: int) -> Delivery:
        """Send it again, under the same id."""
        return Delivery(**self._send("POST", f"/webhooks/{webhook_id}/deliveries/{delivery_id}/redeliver"))

    # -- waiting ------------------------------------------------------------------------------

    @overload
    def wait(self, what: Job, on_progress: Callable[[Job], None] = ..., *, timeout_s: float | None = ...) -> Job: ...
    @overload
    def wait(
        self,
        what: Generation | GenerationSummary,
        on_progress: Callable[[Generation], None] = ...,
        *,
        timeout_s: float | None = ...,
    ) -> Generation: ...
    def wait(
        self,
        what: Job | Generation | GenerationSummary,
        on_progress: Callable[[Any], None] = lambda seen: None,
        *,
        timeout_s: float | None = None,
    ) -> Job | Generation:
        """Wait for a job or a generation, and give it as it ended. A generation may end promoted or refused.

        Raises UnderstudyError with the problem's code if it failed, NotReady (``wait_timeout``) after ``timeout_s``;
        what was waited for goes on then, and may be waited for again.
        """
        ended: Job | Generation
        if isinstance(what, Job):
            ended = self.wait_for_job(what.id, on_progress, timeout_s=timeout_s)
            job, name = ended, f"job {ended.id}"
        else:
            ended = self.wait_for_generation(what.number, on_progress, timeout_s=timeout_s)
            job, name = ended.job, f"generation {ended.number}"
        if ended.state in (JobState.FAILED, GenerationState.FAILED):
            problem = job.problem or Problem(code="failed", detail="the log says why")
            raise UnderstudyError(f"{name} failed: {problem.detail} ({problem.code})", code=problem.code)
        return ended

    def wait_for_job(
        self, job_id: str, on_progress: Callable[[Job], None] = lambda job: None, *, timeout_s: float | None = None
    ) -> Job:
        """Wait until a job has ended, well or not. Raises NotReady (``wait_timeout``) after ``timeout_s``."""
        for _ in _looks(f"job {job_id}", timeout_s):
            job = self.job(job_id)
            on_progress(job)
            if job.state.is_ended:
                break
        return job

    def history(self, number: int) -> History:
        """The curves of a generation's training. Raises RequestFailed (404) until there are any."""
        return History(**self._get(f"/generations/{number}/history"))

    def wait_for_generation(
        self,
        number: int,
        on_progress: Callable[[Generation], None] = lambda generation: None,
        *,
        timeout_s: float | None = None,
    ) -> Generation:
        """Wait until a generation has ended: promoted, refused or failed. Raises NotReady as ``wait_for_job``."""
        for _ in _looks(f"generation {number}", timeout_s):
            generation = self.generation(number)
            on_progress(generation)
            if generation.state.is_ended:
                break
        return generation

    def wait_until_serving(self, version: str, *, timeout_s: float = 60.0) -> None:
        """Wait until the service answers with this version. Raises NotReady if that takes too long."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            try:
                seen = self.readiness()
            except RequestFailed:
                seen = {}
            if seen.get("model") == version:
                return
            time.sleep(POLL_S)
        raise NotReady(f"{self.url} does not serve {version} after {timeout_s:.0f} s; it said {seen}")

    # -- the wire -----------------------------------------------------------------------------

    def _items(self, path: str, kind: type[R]) -> list[R]:
        return [kind(**item) for item in self._get(path)["items"]]

    def _get(self, path: str, **params: Any) -> dict[str, Any]:
        return self._send_again("GET", path, params=params)

    def _send_once(self, path: str, key: str | None, **kwargs: Any) -> dict[str, Any]:
        """POST what has its effect once however often it is sent: by the caller's key, or by one of this call's own."""
        headers = kwargs.pop("headers", {}) | {"Idempotency-Key": key or str(uuid.uuid4())}
        return self._send_again("POST", path, headers=headers, **kwargs)

    def _bytes(self, path: str, **params: Any) -> bytes:
        """A small file, whole. Not retried: who looks asks again."""
        try:
            response = self._http.get(path, params=params)
        except httpx.HTTPError as error:
            raise self._away(error) from error
        if not response.is_success:
            raise self._refused(response)
        return response.content

    def _send_again(self, method: str, path: str, **kwargs: Any) -> dict[str, Any]:
        """What may be done twice: for as long as nobody answers, or has no room, try again."""
        return dict(self._tried(method, path, lambda error: error.status in (None, 429, 503), kwargs))

    def _send(self, method: str, path: str, **kwargs: Any) -> Any:
        """What may act twice: tried again only if it was surely not heard. Raises RequestFailed."""
        return self._tried(method, path, lambda error: error.code in UNHEARD, kwargs)

    def _tried(
        self, method: str, path: str, is_passing: Callable[[RequestFailed], bool], kwargs: dict[str, Any]
    ) -> Any:
        """Sent, and sent again while that may help, with longer and longer pauses or those that the service asks for."""
        deadline, pause_s = time.monotonic() + self._patience_s, POLL_S
        while True:
            try:
                return self._sent(method, path, **kwargs)
            except RequestFailed as error:
                is_nowhere = error.code == "not_connected" and not self._was_there
                if is_nowhere or error.code in STANDING or not is_passing(error):
                    raise
                wait_s = max(pause_s, error.retry_after_s or 0.0)
                if time.monotonic() + wait_s > deadline:
                    raise
            time.sleep(wait_s)
            pause_s = min(2 * pause_s, MAX_PAUSE_S)

    def _sent(self, method: str, path: str, **kwargs: Any) -> Any:
        """The JSON of a good answer to one request. Raises RequestFailed."""
        try:
            response = self._http.request(method, path, **kwargs)
        except httpx.HTTPError as error:
            raise self._away(error) from error
        self._was_there = True
        if not response.is_success:
            raise self._refused(response)
        try:
            return response.json()
        except ValueError as error:
            raise self._foreign(response) from error

    def _refused(self, response: httpx.Response) -> RequestFailed:
        """The problem that an answer is, or that it is none of ours."""
        try:
            said = response.json()
            return RequestFailed(
                said["detail"],
                code=said["code"],
                status=response.status_code,
                request_id=response.headers.get("x-request-id"),
                retry_after_s=_seconds(response.headers.get("retry-after")),
            )
        except (ValueError, KeyError, TypeError):
            return self._foreign(response)

    def _foreign(self, response: httpx.Response) -> RequestFailed:
        text = " ".join(response.text.split())[:200]
        return RequestFailed(
            f"{self.url} answered {response.status_code} as Understudy does not ({text}); is it the right --url?",
            code="request_failed",
            status=response.status_code,
        )

    def _away(self, error: Exception) -> RequestFailed:
        is_nowhere = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
        if not is_nowhere:
            self._was_there = True  # somebody hung up, or said something strange
        return RequestFailed(
            f"no answer from {self.url} ({error}); start it with `understudy up`, or name another with --url",
            # Where nobody listened, nothing was sent: such a request may be repeated whatever it does.
            code="not_connected" if is_nowhere else "no_answer",
        )


def _seconds(retry_after: str | None) -> float | None:
    """What ``Retry-After`` asks for. None: nothing, or a date, which no service of ours says."""
    with contextlib.suppress(ValueError):
        return max(0.0, float(retry_after or ""))
    return None


def _looks(what: str, timeout_s: float | None) -> Iterator[None]:
    """When to look again whether something has ended. Raises NotReady when the time is over."""
    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        yield
        if deadline is not None and time.monotonic() >= deadline:
            raise NotReady(f"{what} has not ended after {timeout_s:g} s; it goes on", code="wait_timeout")
        time.sleep(POLL_S)


def _checked(key: str) -> str:
    """A key that can stand in a header. The message does not show it: it goes to logs and screens."""
    bare = key.strip()  # a file's last line break comes along easily
    if not bare or not all("!" <= character <= "~" for character in bare):
        raise SettingsRefused("the API key is empty or has characters that no key has; give it as it was printed")
    return bare


_BINARY = {"content-type": "application/octet-stream"}
#: This machine is never asked through the proxy that the environment may name.
_DIRECT: dict[str, httpx.BaseTransport | None] = dict.fromkeys(("all://127.0.0.1", "all://localhost", "all://[::1]"))


def _part_of(state: UploadState, number: int) -> tuple[int, int]:
    """Where a part begins, and how many bytes it has."""
    offset = number * state.part_bytes
    return offset, min(state.part_bytes, state.num_bytes - offset)


class _packed:
    """A file to send: the source itself, or a folder as a tar that is made while it is read."""

    def __init__(self, source: Path | IO[bytes] | Packed) -> None:
        self._source = source
        self._file: IO[bytes] | None = None

    def __enter__(self) -> tuple[IO[bytes], str, int]:
        if not isinstance(self._source, Path | Packed):
            return self._source, "upload", _size_of(self._source)
        packed = self._source
        if isinstance(packed, Path):
            packed = packing.folder(packed) if packed.is_dir() else packing.file(packed)
        self._file = packing.opened(packed)
        return self._file, packed.name, packed.num_bytes

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            self._file.close()


def _size_of(file: IO[bytes]) -> int:
    here = file.tell()
    size = file.seek(0, io.SEEK_END) - here
    file.seek(here)
    return size


class _Reading:
    """A file's bytes from where it stood, in pieces; to be sent again, it is read again."""

    def __init__(self, file: IO[bytes], size: int, on_bytes: Callable[[int, int], None]) -> None:
        self._file, self._size, self._on_bytes = file, size, on_bytes
        self._start = file.tell()

    def __iter__(self) -> Iterator[bytes]:
        self._file.seek(self._start)
        sent = 0
        while chunk := self._file.read(CHUNK_BYTES):
            yield chunk
            sent += len(chunk)
            self._on_bytes(sent, self._size)


__all__: Sequence[str] = ["DEFAULT_URL", "Client", "RequestFailed"]
