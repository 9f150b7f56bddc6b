"""Reviewed images: those of buckets that people have labeled, which join the labeled set of a generation.

They stay in their bucket's shards: so what is undone, changed or recalled later needs nothing to be taken back, and the
next plan has the word of its day. Which they are, and as what, is frozen in a file that the plan names by its content.
"""

import hashlib

from understudy import labels
from understudy.catalog import Catalog, reviews
from understudy.errors import Refused
from understudy.records import Record, Sha256
from understudy.store import Store, reviewed_key


class Reviewed(Record):
    """The reviewed images of a plan: how many, where they lie, and the file that says which."""

    num_images: int = 0
    shards: tuple[str, ...] = ()  #: keys of the buckets' shards that hold them
    file_sha256: Sha256 | None = None  #: None: there are none


class ReviewedImages(Record):
    """The same one by one, as columns in the order of the images' sha-256."""

    sha256s: tuple[str, ...] = ()
    shards: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()


def freeze(catalog: Catalog, store: Store, generation: int) -> tuple[Reviewed, dict[str, int]]:
    """Write down what joins now; gives that, and how many images join each class.

    Twice is once: a file is named by its content, and one that no plan names is read by nobody.
    """
    joining = reviews.joining(catalog)
    if not joining:
        return Reviewed(), {}
    columns = {
        "sha256": [one.sha256 for one in joining],
        "shard": [one.shard for one in joining],
        "class": [one.class_name for one in joining],
    }
    table = labels.table(columns, **dict.fromkeys(columns, "string"))
    file = labels.table_to_parquet(table)
    digest = hashlib.sha256(file).hexdigest()
    store.put(reviewed_key(generation, digest), file)
    counts: dict[str, int] = {}
    for one in joining:
        counts[one.class_name] = counts.get(one.class_name, 0) + 1
    found = tuple(sorted({one.shard for one in joining}))
    return Reviewed(num_images=len(joining), shards=found, file_sha256=digest), counts


def read(store: Store, generation: int, reviewed: Reviewed) -> ReviewedImages:
    """The reviewed images of a plan. Raises Refused if their file is missing or damaged."""
    if reviewed.file_sha256 is None:
        return ReviewedImages()
    key = reviewed_key(generation, reviewed.file_sha256)
    try:
        file = store.get(key)
    except FileNotFoundError as error:
        raise Refused(
            f"the list of reviewed images {key} is not in the store; restore it, or open another generation",
            code="reviews_missing",
        ) from error
    if (found := hashlib.sha256(file).hexdigest()) != reviewed.file_sha256:
        raise Refused(
            f"the list of reviewed images {key} is damaged: its sha-256 is {found[:12]}…; restore it, or open another "
            f"generation",
            code="reviews_damaged",
        )
    table = labels.table_from_parquet(file).to_pydict()
    return ReviewedImages(
        sha256s=tuple(table["sha256"]), shards=tuple(table["shard"]), class_names=tuple(table["class"])
    )
