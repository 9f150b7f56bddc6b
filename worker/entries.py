"""One entry of an upload, and what is refused of it before its bytes are looked at.

It knows names, sizes and first bytes; not archives' formats, nor images.
"""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath

from understudy.records import Problem

#: A photo of 40 megapixels (``images.MAX_PIXELS``) as JPEG, PNG or WebP is smaller; what is larger is no photo.
MAX_ENTRY_BYTES = 64 * 2**20
#: The receipt of a million entries takes a worker about 1 GB while it is collected.
MAX_ENTRIES = 1_000_000
#: What an archive may expand to for each of its own bytes. Photos do not shrink; ten to one is usual for
#: flat drawings, and a bomb begins at a thousand.
MAX_RATIO = 100
#: An archive may always expand to this much: a few flat pictures in a tiny archive are no attack.
FREE_EXPANSION_BYTES = 64 * 2**20
#: No file system knows longer names; a longer one is cut in the receipt.
MAX_NAME_CHARACTERS = 1024

#: The name of the entry that stands for all that would have followed in an archive.
REST_OF_ARCHIVE = "(the rest of the archive)"

_DRIVE = re.compile("[A-Za-z]:")
_JUNK_FOLDERS = frozenset({"__MACOSX", ".git", ".ipynb_checkpoints"})
_JUNK_FILES = frozenset({".DS_Store", "Thumbs.db", "desktop.ini"})
#: What others read by running what is inside. Nobody here does; who sends it shall know that it was seen.
FORBIDDEN_TYPES = frozenset({".pyd", ".pkl", ".pickle"})
#: What is shown as %xx: control characters (PostgreSQL takes no NUL, and no log wants a line's end), and
#: bytes that are not UTF-8. Not with a backslash, which would make two folders of one.
_ESCAPES = {code: f"%{code:02x}" for code in (*range(32), 127)} | {0xDC00 + b: f"%{b:02x}" for b in range(128, 256)}

#: The first bytes of archives, to be told in words which kind it is.
ARCHIVE_MAGIC = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",
    b"PK\x07\x08": "zip",
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    # zstd's frames that are skipped, of which pzstd puts one at the head
    **{bytes((0x50 + number,)) + b"\x2a\x4d\x18": "zstd" for number in range(16)},
    b"7z\xbc\xaf\x27\x1c": "7-Zip",
    b"Rar!\x1a\x07": "RAR",
}


@dataclass(frozen=True)
class Entry:
    """One file of an upload with its bytes, or with the reason why they were not taken."""

    name: str  #: as the archive calls it: data, never a path
    data: bytes = b""
    refusal: Problem | None = None
    attached_to: str | None = None  #: the image of the same sample that it belongs to; such an entry has no bytes

    @property
    def folder(self) -> str:
        """The name of the nearest folder around it; empty if there is none."""
        return folder_of(self.name)


@dataclass(frozen=True)
class Folder:
    """A folder that an archive names. No entry of a receipt, but an empty class is noticed by it."""

    name: str


def folder_of(name: str) -> str:
    """The name of the nearest folder around an entry; empty if there is none."""
    return PurePosixPath(name.replace("\\", "/")).parent.name


def refused(name: str, code: str, detail: str) -> Entry:
    """An entry that was not taken, and why."""
    return Entry(name, refusal=Problem(code=code, detail=detail))


def refuse_name(name: str) -> Problem | None:
    """Why an entry of this name is not taken. None: its name is no reason.

    Nothing is ever written under an archive's names, so an escaping one could do no harm here; but who
    sends it did not mean an image, and the same archive will hurt somebody else.
    """
    parts = name.replace("\\", "/").split("/")
    if not parts[0] or ".." in parts or _DRIVE.match(name):
        return Problem(code="escaping_path", detail="the name leads out of the archive: absolute, or through '..'")
    if is_junk(name):
        return Problem(code="not_an_image", detail="a file that an operating system left behind")
    if (suffix := PurePosixPath(parts[-1]).suffix.lower()) in FORBIDDEN_TYPES:
        return Problem(code="forbidden_type", detail=f"{suffix} files hold Python's pickles, which are never opened")
    return None


def is_junk(name: str) -> bool:
    """Whether an operating system or a program left this behind, for nobody to see."""
    *folders, last = name.rstrip("/").replace("\\", "/").split("/")
    return not _JUNK_FOLDERS.isdisjoint([*folders, last]) or last in _JUNK_FILES or last.startswith("._")


def refuse_size(num_bytes: int) -> Problem | None:
    """Why an entry of this size is not read. None: it is."""
    if num_bytes <= MAX_ENTRY_BYTES:
        return None
    detail = f"the entry says that it has {num_bytes:,} bytes; at most {MAX_ENTRY_BYTES:,} are taken"
    return Problem(code="too_large", detail=detail)


def expansion_limit(archive_bytes: int) -> int:
    """The most bytes that an archive of this size may expand to."""
    return max(FREE_EXPANSION_BYTES, MAX_RATIO * archive_bytes)


def kind_of_archive(head: bytes) -> str | None:
    """Which kind of archive begins like this. None: none that we know of; a tar is not told by its first bytes."""
    return next((kind for magic, kind in ARCHIVE_MAGIC.items() if head.startswith(magic)), None)


def shown(name: str) -> str:
    """A name that is fit for a receipt: of bounded length, without control characters, and valid Unicode."""
    text = name.translate(_ESCAPES).encode("utf-8", "replace").decode()
    return text if len(text) <= MAX_NAME_CHARACTERS else text[: MAX_NAME_CHARACTERS - 1] + "…"
