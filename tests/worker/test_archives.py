import gzip
import io
import random
import struct
import tarfile
import time
import zipfile

import pytest
import zstandard

from understudy.errors import ArchiveRefused
from worker import archives, entries, tars
from worker.entries import Entry, Folder

PNG = b"\x89PNG\r\n\x1a\n not decoded here"


def read(data: bytes, name: str = "upload") -> list[Entry | Folder]:
    return list(archives.read(io.BytesIO(data), name).contents)


def outcomes(data: bytes) -> list[tuple[str, str | None]]:
    return [(e.name, e.refusal.code if e.refusal else None) for e in read(data) if isinstance(e, Entry)]


def header(name: str, size: int = 0, kind: bytes = b"0", size_field: bytes | None = None) -> bytes:
    """A tar header that says what we want it to say, with a good checksum."""
    block = bytearray(tars.BLOCK_BYTES)
    block[:100] = name.encode().ljust(100, b"\0")
    block[124:136] = size_field if size_field is not None else b"%011o\0" % size
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def body(data: bytes) -> bytes:
    return data + bytes(-len(data) % tars.BLOCK_BYTES)


END = bytes(2 * tars.BLOCK_BYTES)
zstd = zstandard.ZstdCompressor().compress


@pytest.mark.parametrize("name", ["a.pyd", "a.PKL", "x/a.pickle"])
def test_pickles_are_forbidden_in_every_archive(name, pack_tar, pack_zip):
    """Whatever is inside, also beside an image of their sample; what follows is read."""
    for pack in (pack_tar, pack_zip):
        assert outcomes(pack({"a.png": PNG, name: PNG, "b.png": PNG}))[1:] == [
            (name, "forbidden_type"),
            ("b.png", None),
        ]


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_tar_gives_its_files_and_folders_in_order(pack_tar, mode):
    """Plain or gzipped, by its bytes and not by its name."""
    assert outcomes(pack_tar({"a/1.png": PNG, "a/2.png": PNG + b"2"}, mode)) == [("a/1.png", None), ("a/2.png", None)]


def test_a_zip_knows_how_many_entries_it_has(pack_zip):
    """Folders are told of, but are no entries."""
    archive = archives.read(io.BytesIO(pack_zip({"cat/": b"", "cat/1.png": PNG})), "x")
    assert archive.num_entries == 1
    assert list(archive.contents) == [Folder("cat/"), Entry("cat/1.png", PNG)]


def test_a_single_image_is_an_upload_of_one_entry():
    """Appended bytes do not make it an archive."""
    assert read(PNG + b"PK\x03\x04", "photo.zip") == [Entry("photo.zip", PNG + b"PK\x03\x04")]


def test_a_tar_may_begin_with_a_name_that_looks_like_an_image(pack_tar):
    """A tar begins with its first name, and BM is how a bitmap begins."""
    assert outcomes(pack_tar({"BMW.png": PNG})) == [("BMW.png", None)]


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_long_names_arrive_whole(tar_format):
    """GNU's and POSIX's ways to write them."""
    name, buffer = "folder/" * 40 + "ünï.png", io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tar_format) as archive:
        info = tarfile.TarInfo(name)
        info.size = len(PNG)
        archive.addfile(info, io.BytesIO(PNG))
    assert outcomes(buffer.getvalue()) == [(name, None)]


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty"),
        (b"just words, long enough" * 50, "not_an_archive"),
        (b"7z\xbc\xaf\x27\x1c" + bytes(600), "not_an_archive"),
        (gzip.compress(b"no tar" * 200, mtime=0), "not_an_archive"),
        (gzip.compress(bytes(2048), mtime=0)[:12], "truncated_archive"),
        (zstd(b"no tar" * 200), "not_an_archive"),
        (zstd(bytes(2048))[:12], "truncated_archive"),
        (b"\x28\xb5\x2f\xfd" + b"\xff" * 40, "damaged"),
        # a frame of one byte and 2 GiB of window
        (b"\x28\xb5\x2f\xfd\x00\xa8\x09\x00\x00a", "too_large"),
        (b"PK\x03\x04" + bytes(600), "truncated_archive"),
        (b"PK\x03\x04" + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 9, 9, 999, 5, 0), "damaged"),
    ],
)
def test_what_cannot_be_opened_is_refused_before_its_first_entry(data, code):
    """And with a code of its own."""
    with pytest.raises(ArchiveRefused) as refused:
        archives.read(io.BytesIO(data), "x")
    assert refused.value.code == code


@pytest.mark.parametrize("data", [END, bytes(10_240), zipfile.ZipFile])
def test_an_empty_archive_has_no_entries(data, pack_zip):
    """It is an archive all the same."""
    assert read(pack_zip({}) if data is zipfile.ZipFile else data) == []


@pytest.mark.parametrize("name", ["../x.png", "/etc/x.png", "a/../../x.png", "C:\\x.png", "\\\\host\\x.png", "c:x.png"])
def test_names_that_lead_out_are_refused(name, pack_tar, pack_zip):
    """In both kinds of archive, and what follows is read."""
    assert outcomes(header(name, 3) + body(b"abc") + header("b.png", 3) + body(b"abc") + END) == [
        (name, "escaping_path"),
        ("b.png", None),
    ]
    assert outcomes(pack_zip({name: PNG, "b.png": PNG}))[1:] == [("b.png", None)]
    assert outcomes(pack_zip({name: PNG}))[0][1] == "escaping_path"


@pytest.mark.parametrize(
    ("kind", "code"),
    [(b"1", "link"), (b"2", "link"), (b"3", "not_a_file"), (b"4", "not_a_file"), (b"6", "not_a_file"),
     (b"S", "not_a_file"), (b"M", "not_a_file")],
)  # fmt: skip
def test_what_is_no_plain_file_in_a_tar_is_refused(kind, code):
    """Links, devices, pipes and sparse files; what follows is read."""
    assert outcomes(header("x", 0, kind) + header("b.png", 3) + body(b"abc") + END) == [("x", code), ("b.png", None)]


@pytest.mark.parametrize(("mode", "code"), [(0o120777, "link"), (0o010644, "not_a_file"), (0o100644, None)])
def test_what_is_no_plain_file_in_a_zip_is_refused(mode, code):
    """By the mode that Unix programs write."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        info = zipfile.ZipInfo("x.png")
        info.create_system, info.external_attr = 3, mode << 16
        archive.writestr(info, PNG)
    assert outcomes(buffer.getvalue()) == [("x.png", code)]


def test_an_encrypted_entry_is_refused(pack_zip):
    """By its flag, in the directory and before its bytes."""
    data = bytearray(pack_zip({"x.png": PNG, "y.png": PNG}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    assert outcomes(bytes(data)) == [("x.png", "encrypted"), ("y.png", None)]


def test_a_damaged_entry_of_a_zip_is_refused_alone(pack_zip):
    """Its checksum is looked at."""
    data = bytearray(pack_zip({"x.png": PNG, "y.png": PNG}))
    data[data.index(PNG)] ^= 0xFF
    assert outcomes(bytes(data)) == [("x.png", "damaged"), ("y.png", None)]


@pytest.mark.parametrize("nested", ["zip", "tar", "gzip", "zstd"])
def test_archives_inside_archives_are_refused(nested, pack_zip, pack_tar):
    """They are not unpacked, at any depth."""
    inner = {"zip": pack_zip({"a": PNG}), "tar": pack_tar({"a": PNG}), "gzip": gzip.compress(PNG),
             "zstd": zstd(PNG)}[nested]  # fmt: skip
    assert outcomes(pack_tar({"inner.png": inner, "b.png": PNG})) == [("inner.png", "nested_archive"), ("b.png", None)]


def test_what_an_operating_system_left_behind_is_in_the_receipt(pack_zip):
    """Every entry is; these as no image."""
    names = ["__MACOSX/cat/._1.png", "cat/.DS_Store", "cat/Thumbs.db"]
    assert outcomes(pack_zip(dict.fromkeys(names, PNG))) == [(name, "not_an_image") for name in names]


def test_a_claim_of_8_tib_is_answered_at_once():
    """Refused as too large; that the archive ends there is told too."""
    size = b"\x80" + (8 * 2**40).to_bytes(11, "big")
    began = time.monotonic()
    for pack in (bytes, gzip.compress, zstd):
        assert outcomes(pack(header("a.png", 3) + body(b"abc") + header("x", size_field=size) + body(b"x"))) == [
            ("a.png", None),
            ("x", "too_large"),
            ("(the rest of the archive)", "truncated_archive"),
        ]
    assert time.monotonic() - began < 1.0


@pytest.mark.parametrize("field", [b"\xff" * 12, b"-0000000001\0", b"zzzzzzzzzzz\0", b"0_1\0\0\0\0\0\0\0\0\0"])
def test_a_size_that_is_none_ends_the_archive(field):
    """Negative, or no number: what came before is kept."""
    data = header("a.png", 3) + body(b"abc") + header("x", size_field=field) + header("b.png") + END
    assert outcomes(data) == [("a.png", None), ("(the rest of the archive)", "damaged")]


@pytest.mark.parametrize("cut", [-1, -600, -1024, -1536, -2000])
@pytest.mark.parametrize("pack", [bytes, gzip.compress, zstd], ids=["plain", "gzip", "zstd"])
def test_what_came_before_a_cut_is_kept(cut, pack):
    """In the middle of an entry, of a header, of the padding or of the end mark."""
    data = header("a.png", 3) + body(b"abc") + header("b.png", 700) + body(bytes(700)) + END
    names = outcomes(pack(data[: len(data) + cut]))
    assert names[0] == ("a.png", None)
    assert [code for _, code in names[1:]] in ([None], [None, "truncated_archive"], ["truncated_archive"])
    assert len(names) > 1
    if cut <= -1024:
        assert names[-1][1] == "truncated_archive"


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_compressed_data_that_breaks_off_keeps_what_came_before(compress):
    """The compressed data itself is cut, not the tar in it: at every tenth of its length."""
    noise = random.Random(0).randbytes(2_000_000)
    data = compress(
        b"".join(header(f"{n}.png", 200_000) + body(noise[n * 200_000 :][:200_000]) for n in range(10)) + END
    )
    counts = []
    for tenth in range(1, 10):
        *whole, (name, code) = outcomes(data[: len(data) * tenth // 10])
        assert (name, code) == ("(the rest of the archive)", "truncated_archive")
        assert {code for _, code in whole} <= {None}
        counts.append(len(whole))
    assert counts == sorted(counts)
    assert counts[-1] >= 7


def test_zstd_of_several_frames_is_one_archive(pack_tar):
    """As pzstd writes it, with a frame to be skipped at the head, and with a window of 128 MiB."""
    data = pack_tar({"a.png": PNG, "b.png": PNG})
    skipped = b"\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"
    assert outcomes(skipped + zstd(data[:700]) + zstd(data[700:])) == [("a.png", None), ("b.png", None)]
    wide = zstandard.ZstdCompressionParameters(window_log=27)
    assert len(outcomes(zstandard.ZstdCompressor(compression_params=wide).compress(data))) == 2


def test_damage_inside_zstd_ends_the_archive():
    """By the frame's checksum or before; what came before is kept."""
    params = zstandard.ZstdCompressor(write_checksum=True)
    noise = random.Random(0).randbytes(300_000)
    data = bytearray(params.compress(header("a.png", 3) + body(b"abc") + header("b.png", 300_000) + body(noise) + END))
    data[-1000:-990] = bytes(10)
    data[-4:] = bytes(4)
    assert outcomes(bytes(data))[0] == ("a.png", None)


def test_a_damaged_header_ends_the_archive():
    """Nothing after it can be found."""
    assert outcomes(header("a.png", 3) + body(b"abc") + b"x" * 512 + END)[-1] == (
        "(the rest of the archive)",
        "damaged",
    )


def test_a_header_of_50_mb_is_not_read():
    """Nor one whose list of attributes makes no sense."""
    assert outcomes(header("x", 50 * 2**20, b"x") + bytes(1024))[-1][1] == "too_large"
    assert outcomes(header("x", 8, b"x") + body(b"99 pa=x\n"[:8]) + header("a", 0) + END)[-1] == ("a", None)
    assert outcomes(header("x", 8, b"x") + body(b"garbage!") + header("a", 0) + END)[-1][1] == "damaged"


@pytest.mark.parametrize("compress", [gzip.compress, zstd])
def test_a_compressed_bomb_ends_as_one(monkeypatch, compress):
    """Two gigabytes of zeros would be two megabytes; here the limit is smaller and the time too."""
    monkeypatch.setattr(entries, "FREE_EXPANSION_BYTES", 2**20)
    monkeypatch.setattr(entries, "MAX_RATIO", 1)
    data = compress(header("a.png", 3) + body(b"abc") + header("b.png", 2**22) + bytes(2**22) + END)
    assert outcomes(data) == [("a.png", None), ("(the rest of the archive)", "archive_bomb")]


def test_a_zip_bomb_is_refused_by_its_directory():
    """Before a byte of it is expanded."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for n in range(7):
            archive.writestr(f"{n}.png", bytes(10 * 2**20))
    with pytest.raises(ArchiveRefused) as refused:
        archives.read(io.BytesIO(buffer.getvalue()), "x")
    assert refused.value.code == "archive_bomb"


def test_too_many_entries(pack_zip, pack_tar, monkeypatch):
    """A zip says so beforehand; a tar ends there."""
    monkeypatch.setattr(entries, "MAX_ENTRIES", 2)
    files = {f"{n}.png": PNG for n in range(3)}
    with pytest.raises(ArchiveRefused) as refused:
        archives.read(io.BytesIO(pack_zip(files)), "x")
    assert refused.value.code == "too_many_entries"
    assert [code for _, code in outcomes(pack_tar(files))] == [None, None, "too_many_entries"]


def test_a_large_entry_is_passed_over(pack_tar, pack_zip, monkeypatch):
    """What follows is read."""
    monkeypatch.setattr(entries, "MAX_ENTRY_BYTES", 100)
    for pack in (pack_tar, pack_zip):
        assert outcomes(pack({"x": b"x" * 101, "b": PNG})) == [("x", "too_large"), ("b", None)]


def test_names_are_fit_for_a_receipt():
    """Of bounded length, valid Unicode, and without control characters."""
    assert entries.shown("a\0b\nc") == "a%00b%0ac"
    assert len(entries.shown("x" * 10_000)) == entries.MAX_NAME_CHARACTERS
    assert entries.shown("\udcff\ud800") == "%ff?"


def test_a_name_that_is_not_utf_8_is_shown_escaped():
    """It is data: another encoding refuses nothing."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT, encoding="latin-1") as archive:
        archive.addfile(tarfile.TarInfo("\xfc.png"))
    ((name, code),) = outcomes(buffer.getvalue())
    assert (entries.shown(name), code) == ("%fc.png", None)


def test_a_zip64_archive_is_read_by_its_own_end_record(pack_zip, monkeypatch):
    """Its old end record is full of ones; what it says of a directory too long is believed all the same."""
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 0)
    data = bytearray(pack_zip({"a.png": PNG}))
    at = data.rindex(b"PK\x05\x06")
    data[at + 8 : at + 20] = b"\xff" * 12
    assert outcomes(bytes(data)) == [("a.png", None)]
    at = data.rindex(b"PK\x06\x06")
    data[at + 40 : at + 48] = (2**40).to_bytes(8, "little")
    with pytest.raises(ArchiveRefused) as refused:
        archives.read(io.BytesIO(bytes(data)), "x")
    assert refused.value.code == "too_many_entries"
