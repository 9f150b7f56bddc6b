"""Label sets: what is stored of a teacher's probabilities, and what comes back."""

import numpy as np
import pyarrow as pa
import pytest

from understudy import labels
from understudy.errors import LabelSetRefused, UnderstudyError
from understudy.labels import TOP_CLASSES
from understudy.records import Outcome, ReceiptEntry

PROVENANCE = {"teacher": "g0000-aaaaaa", "classes": ["shoe", "hat", "größe"]}


def distributions(num_images: int, num_classes: int, seed: int = 0):
    return np.random.default_rng(seed).dirichlet(np.ones(num_classes), num_images).astype(np.float32)  # (N, C)


def put(store, key: str, probabilities, prefix: str = "image"):
    sha256s = [f"{prefix}{n}" for n in range(len(probabilities))]
    store.put(key, labels.to_parquet(sha256s, probabilities, PROVENANCE))
    return key


def test_a_label_set_keeps_the_top_classes_and_the_tail(local_store):
    """Of each image: the argmax, its probability, the most probable classes in order, and the mass of the rest."""
    probabilities = distributions(5, 30)
    key = put(local_store, "labels", probabilities)

    rows = labels.read(local_store, [key]).read_all().to_pylist()

    for row, expected in zip(rows, probabilities, strict=True):
        order = np.argsort(-expected)[:TOP_CLASSES]
        assert row["label"] == expected.argmax() == row["top_classes"][0]
        assert row["confidence"] == expected.max() == row["top_probabilities"][0]
        assert row["top_classes"] == order.tolist()
        assert row["top_probabilities"] == expected[order].tolist()
        assert row["tail_mass"] == pytest.approx(1 - expected[order].sum(), abs=1e-6)


@pytest.mark.parametrize("num_classes", [2, TOP_CLASSES, TOP_CLASSES + 1])
def test_few_classes_are_kept_exactly(local_store, num_classes):
    """A stored soft label is the teacher's distribution again, exactly so while no class is in the tail's average."""
    probabilities = distributions(20, num_classes)
    key = put(local_store, "labels", probabilities)

    for row, expected in zip(labels.read(local_store, [key]).read_all().to_pylist(), probabilities, strict=True):
        dense = labels.dense(row["top_classes"], row["top_probabilities"], row["tail_mass"], num_classes)
        np.testing.assert_allclose(dense, expected, atol=1e-6)


def test_the_tail_is_spread_evenly():
    """Classes that were not kept by name share the tail mass, and the whole sums to one."""
    dense = labels.dense([3, 0], [0.5, 0.3], 0.2, 6)

    np.testing.assert_allclose(dense, [0.3, 0.05, 0.05, 0.5, 0.05, 0.05], atol=1e-7)
    assert dense.dtype == np.float32


def test_ties_go_to_the_first_class(local_store):
    """Equal probabilities give the same label on every machine."""
    key = put(local_store, "labels", np.full((1, 4), 0.25, dtype=np.float32))

    assert labels.read(local_store, [key]).read_all().to_pylist()[0]["top_classes"] == [0, 1, 2, 3]


def test_the_same_labels_make_the_same_bytes():
    """A shard labeled twice by one teacher gives one object."""
    files = {labels.to_parquet(["a", "b"], distributions(2, 3), PROVENANCE) for _ in range(2)}

    assert len(files) == 1


def test_an_empty_label_set_is_a_label_set(local_store):
    """A shard of which no image could be labeled has a label set without rows."""
    key = put(local_store, "labels", np.empty((0, 3), dtype=np.float32))

    assert labels.read(local_store, [key]).read_all().num_rows == 0


def test_a_label_set_says_where_it_came_from(store):
    """The provenance is in the file itself."""
    key = put(store, "labels", distributions(1, 3))

    assert labels.provenance(store, key) == PROVENANCE


def test_many_label_sets_are_read_as_one(store):
    """Rows come in the order of the label sets that were asked for, and of no other."""
    keys = [put(store, f"labels/{n}", distributions(3, 4, seed=n), prefix=f"{n}-") for n in range(3)]

    rows = labels.read(store, [keys[2], keys[0]]).read_all()

    assert rows["sha256"].to_pylist() == ["2-0", "2-1", "2-2", "0-0", "0-1", "0-2"]
    assert rows.schema.equals(labels.SCHEMA)


def test_a_missing_label_set_is_a_missing_file(local_store):
    """What the catalog lists and the store has not is an error, not an empty answer."""
    with pytest.raises(FileNotFoundError):
        labels.read(local_store, ["nope"]).read_all()


def test_label_sets_answer_sql(local_store):
    """A query sees all rows as ``labels``, its parameters, and the tables that it is given."""
    key = put(local_store, "labels", np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]], dtype=np.float32))
    names = pa.table({"label": pa.array([0, 1], pa.int32()), "name": ["shoe", "hat"]})

    answer = labels.query(
        local_store,
        [key],
        "SELECT name, count(*) AS num FROM labels JOIN names USING (label) "
        "WHERE confidence >= $threshold GROUP BY name ORDER BY name",
        {"threshold": 0.7},
        names=names,
    )

    assert answer.to_pylist() == [{"name": "hat", "num": 1}, {"name": "shoe", "num": 1}]


def test_a_query_cannot_reach_files(local_store, tmp_path):
    """SQL sees the label sets and nothing else of the machine."""
    secret = tmp_path / "secret.csv"
    secret.write_text("a\n1\n")
    key = put(local_store, "labels", distributions(1, 2))

    with pytest.raises(Exception, match="disabled"):
        labels.query(local_store, [key], f"SELECT * FROM read_csv('{secret}')")


def test_any_table_survives_parquet():
    """A table comes back as it was, with its metadata."""
    table = pa.table({"a": [1, 2], "b": ["x", None]}).replace_schema_metadata({"k": "v"})

    again = labels.table_from_parquet(labels.table_to_parquet(table))

    assert again.equals(table)
    assert again.schema.metadata[b"k"] == b"v"


def test_a_receipt_is_read_in_pages(store):
    """Every entry comes back as it was written, and a page is what was asked for."""
    entries = [
        ReceiptEntry(index=0, name="a.jpg", outcome=Outcome.ACCEPTED, sha256="0" * 64),
        ReceiptEntry(
            index=1, name='=cmd|"\n\u202egpj.exe', outcome=Outcome.QUARANTINED, reason="empty", detail="0 bytes"
        ),
        ReceiptEntry(index=2, name="größe.jpg", outcome=Outcome.HOLDOUT_LEAK, sha256="1" * 64),
    ]
    store.put("receipt", labels.receipt_to_parquet(entries))

    assert labels.read_receipt(store, "receipt", offset=0, limit=10) == entries
    assert labels.read_receipt(store, "receipt", offset=1, limit=1) == entries[1:2]
    assert labels.read_receipt(store, "receipt", offset=3, limit=10) == []
    assert list(labels.receipt_lines(store, "receipt", only=Outcome.QUARANTINED)) == entries[1:2]
    assert list(labels.receipt_lines(store, "receipt", only=Outcome.DUPLICATE)) == []


def test_a_damaged_file_that_nobody_lists_does_not_matter(store):
    """A label set that is half written, or was never published, is not read."""
    key = put(store, "labels/whole.parquet", distributions(2, 3))
    store.put("labels/half.parquet", store.get(key)[:100])

    assert labels.query(store, [key], "SELECT count(*) AS num FROM labels").to_pylist() == [{"num": 2}]


@pytest.mark.parametrize("end", [0, 100, -200, -1])
def test_a_damaged_label_set_that_is_listed_is_named(store, end):
    """The error says which one it is, and what to do."""
    keys = [put(store, f"labels/{n}.parquet", distributions(50, 3, seed=n), prefix=f"{n}-") for n in range(3)]
    store.replace("labels/1.parquet", store.get(keys[1])[:end])

    with pytest.raises(LabelSetRefused, match=r"labels/1\.parquet is damaged .*label its shard again"):
        labels.query(store, keys, "SELECT sum(confidence) FROM labels")


def test_a_listed_label_set_that_is_gone_is_a_missing_file(store):
    """It may have been removed after it was listed."""
    key = put(store, "labels/there.parquet", distributions(1, 3))

    with pytest.raises(FileNotFoundError, match="gone"):
        labels.query(store, [key, "labels/gone.parquet"], "SELECT count(*) FROM labels")


def test_a_query_over_no_label_sets_has_the_columns_and_no_row(local_store):
    """Nothing published yet is an empty answer."""
    answer = labels.query(local_store, [], "SELECT sha256, label_set FROM labels WHERE confidence > 0.5")

    assert answer.num_rows == 0


def test_an_answer_of_any_length_is_written_to_a_file(local_store, tmp_path):
    """It is read again by the same session, and gone with it."""
    keys = [put(local_store, f"labels/{n}.parquet", distributions(100, 3), prefix=f"{n}-") for n in range(3)]
    spool = tmp_path / "spool"

    with labels.opened(local_store, {"labels": keys}, spool=spool) as session:
        written = session.write("SELECT * FROM labels ORDER BY sha256 DESC")
        told = session.ask("SELECT count(*) AS num, max(sha256) AS top FROM read_parquet($f)", {"f": str(written)})

    assert told.to_pylist() == [{"num": 300, "top": "2-99"}]
    assert not list(spool.iterdir())


def test_what_does_not_fit_into_memory_goes_to_the_spool(local_store, tmp_path):
    """A table of 120 MB under a limit of 64 MB."""
    key = put(local_store, "labels", distributions(30_000, 2), prefix="x" * 4000)
    spool = tmp_path / "spool"

    with labels.opened(local_store, {"labels": [key]}, spool=spool, memory="64MB", threads=1) as session:
        session.keep("kept", "SELECT sha256 FROM labels")
        assert sum(path.stat().st_size for path in spool.rglob("*") if path.is_file()) > 10e6
        assert session.ask("SELECT count(DISTINCT sha256[4000:]) AS num FROM kept").to_pylist() == [{"num": 30_000}]

    assert not list(spool.iterdir())


def test_too_little_memory_and_spool_is_told(local_store, tmp_path):
    """An answer that has no room is an error of ours, with what it lacked."""
    key = put(local_store, "labels", distributions(30_000, 2), prefix="x" * 4000)

    with (
        pytest.raises(UnderstudyError, match="more memory or spool"),
        labels.opened(local_store, {"labels": [key]}, spool=tmp_path, memory="16MB", threads=1) as session,
    ):
        session.ask("SELECT list(sha256) AS all_of_them FROM labels")


def test_two_lists_of_label_sets_are_two_tables(local_store):
    """What two teachers say of the same images can be joined."""
    old = put(local_store, "labels/old", np.array([[0.9, 0.1], [0.8, 0.2]], dtype=np.float32))
    new = put(local_store, "labels/new", np.array([[0.9, 0.1], [0.3, 0.7]], dtype=np.float32))

    with labels.opened(local_store, {"labels": [new], "before": [old]}) as session:
        answer = session.ask(
            "SELECT sha256, labels.label_set FROM labels JOIN before USING (sha256) WHERE labels.label != before.label"
        )

    assert answer.to_pylist() == [{"sha256": "image1", "label_set": "labels/new"}]
