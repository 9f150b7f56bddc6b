"""Examples for the OpenAPI document. A test holds each of them to the schema of its route."""

from typing import Any

_JOB: dict[str, Any] = {
    "id": "0204b678d519f1b9bdbf",
    "kind": "ingest",
    "state": "succeeded",
    "bucket": "holiday-photos",
    "params": {},
    "step": "unpack",
    "done": 500,
    "total": 500,
    "result": {
        "entries": 500,
        "accepted": 480,
        "duplicate": 15,
        "holdout-leak": 1,
        "quarantined": 4,
        "attached": 0,
        "reasons": {"truncated": 3, "not_an_image": 1},
        "near_duplicates": 2,
        "receipt_key": "receipts/0204b678d519f1b9bdbf/1.parquet",
    },
    "problem": None,
    "attempt": 1,
    "created_at": "2026-11-21T09:30:00.000Z",
    "updated_at": "2026-11-21T09:30:07.125Z",
}
_QUEUED = _JOB | {"state": "queued", "step": None, "done": 0, "total": None, "result": None, "attempt": 0}

#: A picture of one red pixel, in base64.
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR42mP4z8AAAAMBAQD3A0FDAAAAAElFTkSuQmCC"
CLASSIFIED: dict[str, Any] = {
    "model": "g0003-8f2c1a",
    "predictions": [
        {
            "name": "one.jpg",
            "label": "t-shirt",
            "probability": 0.91,
            "classes": [{"label": "t-shirt", "probability": 0.91}, {"label": "longsleeve", "probability": 0.06}],
            "problem": None,
        }
    ],
}
TRIED: dict[str, Any] = {
    "model": "g0001-326eb4",
    "prediction": CLASSIFIED["predictions"][0] | {"name": None},
    "load_ms": 180.0,
    "answer_ms": 21.5,
}
WORK: dict[str, Any] = {
    "items": [
        {
            "kind": "label",
            "id": "412",
            "bucket": "holiday-photos",
            "version": "g0003-8f2c1a",
            "shard": 87,
            "step": None,
            "owner": "worker-1:6f1c2a90:4026531836:214:88120",
            "attempt": 1,
            "opened_at": "2026-11-21T09:30:00.000Z",
            "seen_at": "2026-11-21T09:30:07.125Z",
            "lease_until": "2026-11-21T09:31:07.125Z",
            "is_stalled": False,
        }
    ],
    "next": None,
}
SHARD_MAP: dict[str, Any] = {
    "version": "g0003-8f2c1a",
    "num_waiting": 2,
    "num_running": 1,
    "num_done": 3,
    "num_failed": 0,
    "strips": [{"bucket": "holiday-photos", "first": 1, "states": "dddrww"}],
    "next": None,
}
PSEUDO_LABELS: dict[str, Any] = {
    "items": [
        {
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "bucket": "holiday-photos",
            "teacher": "g0003-8f2c1a",
            "label": "t-shirt",
            "confidence": 0.91,
            "margin": 0.85,
            "classes": [{"label": "t-shirt", "probability": 0.91}, {"label": "longsleeve", "probability": 0.06}],
            "previous_teacher": "g0002-1b9c44",
            "previous_label": "longsleeve",
            "is_changed": True,
        }
    ],
    "next": None,
}
COMPARISON: dict[str, Any] = {
    "challenger": "g0002-1b9c44",
    "champion": "g0001-8f2c1a",
    "num_images": 600,
    "won": 33,
    "lost": 5,
    "both_right": 524,
    "both_wrong": 38,
    "classes": [{"name": "t-shirt", "num_images": 600, "won": 33, "lost": 5}],
    "confusions": [{"truth": "t-shirt", "answer": "longsleeve", "challenger": 43, "champion": 71}],
}
REVIEW_QUEUE: dict[str, Any] = {
    "items": [
        {
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "bucket": "holiday-photos",
            "teacher": "g0003-8f2c1a",
            "label": "t-shirt",
            "confidence": 0.48,
            "margin": 0.02,
            "classes": [{"label": "t-shirt", "probability": 0.48}, {"label": "longsleeve", "probability": 0.46}],
            "previous_teacher": "g0002-1b9c44",
            "previous_label": "longsleeve",
        }
    ],
    "next": None,
    "by": "uncertain",
    "teacher": "g0003-8f2c1a",
    "audit_threshold": None,
}
_REVIEW: dict[str, Any] = {
    "id": 17,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
    "verdict": "correct",
    "class_name": "longsleeve",
    "is_new_class": False,
    "teacher": "g0003-8f2c1a",
    "label": "t-shirt",
    "confidence": 0.48,
    "is_audit": False,
    "audit_threshold": None,
    "actor": "key 5f1c9a",
    "at": "2026-11-21T09:50:00.000Z",
    "undone_at": None,
}
REVIEWS: dict[str, Any] = {"items": [_REVIEW], "next": None}
UNDONE_REVIEWS: dict[str, Any] = {"items": [_REVIEW | {"undone_at": "2026-11-21T09:50:04.000Z"}], "next": None}
_AUDITED = {"num_audited": 120, "num_right": 111, "precision": 0.925, "interval": {"low": 0.862, "high": 0.965}}
AUDIT: dict[str, Any] = _AUDITED | {
    "teacher": "g0003-8f2c1a",
    "threshold": 0.3,
    "num_rejected": 2,
    "per_class": {"t-shirt": _AUDITED},
}
JOB = _JOB
QUEUED_JOB = _QUEUED
SYNC_JOB = _QUEUED | {
    "kind": "sync",
    "params": {"source": "7a0f52c1d9e84b36aa10", "url": "s3://holiday-photos/2026/"},
}
SOURCE: dict[str, Any] = {
    "id": "7a0f52c1d9e84b36aa10",
    "bucket": "holiday-photos",
    "url": "s3://holiday-photos/2026/",
    "job": "0204b678d519f1b9bdbf",
    "objects": {"num_taken": 500, "num_underway": 0, "num_failed": 0},
    "created_at": "2026-11-21T09:30:00.000Z",
}
SOURCES: dict[str, Any] = {"items": [SOURCE | {"objects": None}], "next": None}
LABELED_JOB = _QUEUED | {"kind": "labeled", "bucket": None}
RECEIPT: dict[str, Any] = {
    "items": [
        {
            "index": 0,
            "name": "IMG_0001.jpg",
            "outcome": "accepted",
            "reason": None,
            "detail": None,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        },
        {
            "index": 1,
            "name": "notes.txt",
            "outcome": "quarantined",
            "reason": "not_an_image",
            "detail": "not an image of a format that is taken (JPEG, PNG, WEBP, GIF, BMP, TIFF)",
            "sha256": None,
        },
    ],
    "next": "1000",
}
UPLOAD: dict[str, Any] = {
    "id": "0204b678d519f1b9bdbf",
    "state": "receiving",
    "bucket": "holiday-photos",
    "name": "photos.zip",
    "num_bytes": 20_000_000,
    "part_bytes": 8_388_608,
    "num_parts": 3,
    "missing": [1, 2],
}
UPLOAD_PART: dict[str, Any] = {
    "number": 0,
    "num_bytes": 8_388_608,
    "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
}
BUCKETS: dict[str, Any] = {
    "items": [
        {
            "name": "holiday-photos",
            "created_at": "2026-11-21T09:30:00.000Z",
            "num_images": 480,
            "num_shards": 1,
            "num_bytes": 96_000_000,
            "num_images_labeled": 480,
        }
    ],
    "next": None,
}
RECALL: dict[str, Any] = {
    "bucket": "holiday-photos",
    "dry_run": False,
    "num_images": 480,
    "num_shards": 1,
    "num_bytes": 96_000_000,
    "num_label_sets": 2,
    "num_jobs": 0,
    "num_reviews": 12,
    "models": ["g0003-8f2c1a"],
    "descendants": [],
}
EXPORT_JOB: dict[str, Any] = _JOB | {
    "kind": "export",
    "bucket": None,
    "step": "export",
    "params": {"request": {"format": "imagefolder", "bucket": "holiday-photos", "min_confidence": 0.9}},
    "result": {"num_files": 3, "num_rows": 412, "num_bytes": 81_000_000},
}
EXPORT_FILES: dict[str, Any] = {
    "items": [
        {
            "name": "imagefolder-000000.tar",
            "num_bytes": 80_998_400,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "num_rows": 412,
        }
    ],
    "next": None,
}
MODEL_FILES: dict[str, Any] = {
    "items": [
        {
            "name": "model.onnx",
            "num_bytes": 16_284_103,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
        }
    ],
    "next": None,
}
GENERATION: dict[str, Any] = {
    "number": 3,
    "state": "running",
    "request": {"student": None, "recipe": None, "overrides": {}, "seed": 0, "weights": None},
    "teacher": "g0002-2bdadd",
    "version": None,
    "job": _QUEUED
    | {
        "kind": "generation",
        "bucket": None,
        "state": "running",
        "step": "train",
        "done": 120,
        "total": 400,
        "metrics": {
            "step": 120,
            "num_steps": 400,
            "loss": 2.114,
            "labeled_loss": 1.062,
            "pseudo_loss": 1.052,
            "learning_rate": 0.0041,
            "images_per_second": 1890.4,
            "eta_s": 19.0,
            "ema_accuracy": 0.83,
            "ema_step": 100,
            "ema_images": 240,
        },
        "attempt": 1,
    },
    "report": None,
    "created_at": "2026-11-21T09:31:00.000Z",
    "ended_at": None,
}
HISTORY: dict[str, Any] = {
    "num_steps": 400,
    "lines": [
        {
            "step": 2,
            "loss": 4.731,
            "labeled_loss": 2.36,
            "pseudo_loss": 2.371,
            "learning_rate": 0.0003,
            "gradient_norm": 1.9,
            "images_per_second": 1950.2,
            "seconds": 0.14,
        }
    ],
    "validations": [{"step": 100, "accuracy": 0.83, "num_images": 240, "seconds": 0.11}],
}
LOOP: dict[str, Any] = {
    "paused": False,
    "by": None,
    "since": None,
    "reason": None,
    "champion": "g0002-2bdadd",
    "generation": {"number": 3, "state": "running", "step": "train", "done": 120, "total": 400},
    "labels": {"num_wanted": 0, "num_running": 0, "num_done": 12, "num_failed": 0},
    "num_images": 11_480,
    "num_pseudo_labels": 11_480,
    "generate_after": 0,
    "num_new_images": 480,
    "next": "generation",
    "why": "generation 3 is under way: train (120 of 400)",
}
PAUSED_LOOP: dict[str, Any] = LOOP | {
    "paused": True,
    "by": "key 3f9c1e",
    "since": "2026-11-21T09:35:00.000Z",
    "reason": "the GPU is needed elsewhere",
    "next": "resume",
    "why": "paused by key 3f9c1e since 2026-11-21 09:35 UTC (the GPU is needed elsewhere): nothing new starts until "
    "`understudy resume`; generation 3 goes on to its end",
}
WEBHOOK: dict[str, Any] = {
    "id": "b1946ac92492d2347c62",
    "url": "https://example.com/understudy",
    "events": ["generation.finished", "alarm"],
    "description": "the team's channel",
    "created_by": "key 3f9c1e",
    "created_at": "2026-11-21T09:30:00.000Z",
}
NEW_WEBHOOK: dict[str, Any] = WEBHOOK | {"secret": "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}
DELIVERY: dict[str, Any] = {
    "id": 7,
    "webhook": "b1946ac92492d2347c62",
    "event_id": "msg_0204b678d519f1b9bdbf7a0f",
    "event": "generation.finished",
    "subject": "3",
    "state": "queued",
    "num_attempts": 1,
    "next_at": "2026-11-21T09:31:10.000Z",
    "created_at": "2026-11-21T09:31:04.000Z",
    "body": '{"id":"msg_0204b678d519f1b9bdbf7a0f","type":"generation.finished","timestamp":"2026-11-21T09:31:04.000Z",'
    '"subject":"3","data":{"generation":3,"state":"promoted","version":"g0003-8f2c1a"}}',
    "attempts": [
        {
            "at": "2026-11-21T09:31:05.000Z",
            "status": 502,
            "ms": 112,
            "answer": "bad gateway",
            "problem": "it answered 502",
        }
    ],
}
DEPLOYMENT: dict[str, Any] = {
    "id": "5d1c0a4b7e9f2a6b8c3d",
    "version": "g0003-8f2c1a",
    "champion": "g0002-2bdadd",
    "kind": "canary",
    "share": 0.1,
    "limits": {
        "min_images": 200,
        "max_error_rate_increase": 0.01,
        "max_latency_ratio": 2.0,
        "min_agreement": 0.5,
    },
    "state": "active",
    "reason": None,
    "opened_by": "anonymous",
    "ended_by": None,
    "created_at": "2026-11-21T09:40:00.000Z",
    "ended_at": None,
    "counts": {
        "champion_requests": 897,
        "champion_images": 897,
        "champion_errors": 0,
        "champion_seconds": 19.734,
        "challenger_requests": 103,
        "challenger_images": 103,
        "challenger_errors": 0,
        "challenger_seconds": 2.472,
        "compared_images": 100,
        "agreed_images": 94,
        "skipped_images": 3,
    },
    "agreement": 0.94,
    "champion_latency_ms": 22.0,
    "challenger_latency_ms": 24.0,
}
READY: dict[str, Any] = {
    "ready": True,
    "stopping": False,
    "model": "g0003-8f2c1a",
    "provider": "cpu",
    "variant": "fp32",
    "fallback": None,
    "refused": {},
}


def of(status: int, example: dict[str, Any], description: str) -> dict[int | str, dict[str, Any]]:
    """A route's ``responses`` entry with an example."""
    return {status: {"description": description, "content": {"application/json": {"example": example}}}}
