"""WebDataset's samples in a tar: consecutive entries whose names are the same up to the first dot of the last part.

What lies beside an image (its class, caption or metadata) is attached to it: told of in the receipt, and
not kept. Nothing of it is parsed. An entry is held back only until the next sample begins, without its bytes.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from worker.entries import Entry, Folder

#: What datasets put beside their images (``webdataset.autodecode`` and img2dataset), and no image.
ATTACHED_TYPES = frozenset(
    [
        "cls",
        "cls2",
        "class",
        "id",
        "idx",
        "index",
        "inx",
        "count",
        "json",
        "jsn",
        "txt",
        "text",
        "transcript",
        "caption",
        "captions",
        "npy",
        "npz",
        "ten",
        "tensor",
        "mp",
        "msg",
        "yaml",
        "yml",
        "xml",
        "csv",
        "parquet",
        "emb",
    ]
)
#: A sample with more of them than this is none.
MAX_HELD = 64

_HEAD_BYTES = 16


def attached(contents: Iterator[Entry | Folder], is_image: Callable[[bytes], bool]) -> Iterator[Entry | Folder]:
    """The same entries in the same order; what belongs to an image names it as ``attached_to``."""
    held: list[Entry] = []  # of the sample that has had no image yet, in order
    key, image = "", None
    for entry in contents:
        new_key = key_of(entry.name) if isinstance(entry, Entry) else ""
        if new_key != key or isinstance(entry, Folder) or len(held) >= MAX_HELD:
            yield from held
            held, key, image = [], new_key, None
        if isinstance(entry, Entry) and entry.refusal is None and is_image(entry.data[:_HEAD_BYTES]):
            image = image or entry.name
            yield from (Entry(each.name, attached_to=image) for each in held)
            held = []
            yield entry
        elif not isinstance(entry, Entry) or not _may_be_attached(entry):
            yield from held
            held = []
            yield entry
        elif image is not None:
            yield Entry(entry.name, attached_to=image)
        else:
            held.append(replace(entry, data=entry.data[:_HEAD_BYTES]))  # enough to be told that it is no image
    yield from held


def key_of(name: str) -> str:
    """The sample that a name belongs to: folders, and the last part up to its first dot."""
    folder, slash, last = name.rpartition("/")
    return folder + slash + last.partition(".")[0]


def _may_be_attached(entry: Entry) -> bool:
    return entry.refusal is None and entry.name.rpartition(".")[2].lower() in ATTACHED_TYPES
