"""The ledger: whether every accepted image is labeled once by a teacher, by counting what is in the store.

It believes neither the catalog's counts nor the workers: it reads every manifest and every label set.
"""

from collections import Counter
from dataclasses import dataclass

from understudy import labels
from understudy.catalog import Catalog, shards
from understudy.shards import read_manifest
from understudy.store import Store


@dataclass(frozen=True)
class Ledger:
    """What one teacher has made of all that is sealed. Images are counted, not files."""

    num_accepted: int
    num_labeled: int
    num_left_out: int  #: with the reason in the label set
    faults: tuple[str, ...]  #: broken promises, in words; empty if all is well


def read(catalog: Catalog, store: Store, version: str) -> Ledger:
    """Count. To be asked when nothing is under way: what is not labeled yet is a fault here."""
    faults: list[str] = []
    accepted: Counter[str] = Counter()
    labeled: Counter[str] = Counter()
    left_out: Counter[str] = Counter()
    sealed = shards.of_split(catalog, "unlabeled")
    published = Counter(task.shard.id for task in shards.published_labels(catalog, version))
    for shard in sealed:
        accepted.update(member.sha256 for member in read_manifest(store, shard.key).members)
        if published[shard.id] != 1:
            faults.append(f"shard {shard.key} has {published[shard.id]} label sets by {version}, not 1")
    for task in shards.published_labels(catalog, version):
        assert task.key is not None  # it is published
        rows = labels.read(store, [task.key]).read_all().column("sha256").to_pylist()
        missing = [each["sha256"] for each in labels.provenance(store, task.key)["left_out"]]
        members = Counter(member.sha256 for member in read_manifest(store, task.shard.key).members)
        if Counter(rows) + Counter(missing) != members or len(rows) != task.num_rows:
            faults.append(f"label set {task.key} is not of the images of {task.shard.key}, each once")
        labeled.update(rows)
        left_out.update(missing)
    faults += [f"image {sha256} is sealed {num} times" for sha256, num in accepted.items() if num > 1]
    faults += [f"image {sha256} is labeled {num} times" for sha256, num in labeled.items() if num > 1]
    if lost := accepted.keys() - labeled.keys() - left_out.keys():
        faults.append(f"{len(lost)} accepted images have no label and no reason, {min(lost)} for one")
    return Ledger(accepted.total(), labeled.total(), left_out.total(), tuple(faults))
