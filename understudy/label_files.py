"""Label sets as files of this machine, which is how DuckDB reads them.

Those of a local store are read where they lie. A bucket's are fetched whole, once each, into a cache: they
never change, and are so small (about 100 kB) that the requests for their footers and columns, one by one,
would cost more than their bytes. What was used longest ago makes room.
"""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from understudy.store import Store

#: Of a bucket's label sets, so much stays on this machine. A query that needs more has it while it runs.
MAX_CACHE_BYTES = 20 * 2**30
#: Requests at a time while fetching: each waits for the bucket, hardly one for a core.
FETCHERS = 16


def folder_with(store: Store, keys: Sequence[str], cache: Path, *, max_bytes: int = MAX_CACHE_BYTES) -> Path:
    """A folder in which every key is the path of its file. Raises FileNotFoundError for what the bucket has not."""
    if store.folder is not None:
        return store.folder
    cache.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(FETCHERS, thread_name_prefix="fetch") as pool:
        for _ in pool.map(lambda key: _fetch(store, key, cache / key), keys):
            pass
    _make_room(cache, {cache / key for key in keys}, max_bytes)
    return cache


def _fetch(store: Store, key: str, path: Path) -> None:
    """Have one object as a file: whole or not at all, whoever else fetches it."""
    with contextlib.suppress(FileNotFoundError):
        os.utime(path)  # used now
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    data = store.get(key)
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".arriving-", delete=False) as file:
        try:
            file.write(data)
            file.flush()
            Path(file.name).replace(path)
        except BaseException:
            Path(file.name).unlink(missing_ok=True)
            raise


def _make_room(cache: Path, needed: Iterable[Path], max_bytes: int) -> None:
    """Delete what was used longest ago until the rest fits, but nothing of what is needed now."""
    keep = set(needed)
    found: list[tuple[float, int, Path]] = []
    for path in cache.rglob("*"):
        with contextlib.suppress(FileNotFoundError):  # another process makes room too
            if path.is_file():
                stat = path.stat()
                found.append((stat.st_mtime, stat.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= max_bytes:
            return
        if path not in keep:
            path.unlink(missing_ok=True)
            total -= size
