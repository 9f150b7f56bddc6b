"""The arithmetic of a selection: copies, cuts and bins."""

import duckdb
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from understudy import labels, quota
from understudy.quota import Cut, Quota

BINS = st.dictionaries(st.integers(0, 20), st.integers(1, 50), min_size=1)


@given(available=st.integers(0, 200), target=st.integers(1, 400), max_copies=st.integers(1, 5))
def test_a_quota_is_what_giving_copies_one_by_one_makes(available, target, max_copies):
    """The most confident get one more until the target is met, as far as the limit allows."""
    copies = [min(max_copies, target // available + (n < target % available)) for n in range(available)]

    told = Quota(available, target, max_copies)

    assert (told.kept, told.rows) == (sum(c > 0 for c in copies), sum(copies))


@given(bins=BINS, num_wanted=st.integers(0, 1500))
def test_a_cut_and_the_best_agree(bins, num_wanted):
    """All of the bins above the cut are wanted, and of the cut's own bin what is left."""
    best = quota.best(bins, num_wanted)

    assert sum(best.values()) == min(num_wanted, sum(bins.values()))
    found = quota.cut(bins, num_wanted)
    if 0 < num_wanted <= sum(bins.values()):
        assert found == Cut(min(best), best[min(best)])
    else:
        assert found is None


def test_bins_rise_with_confidence_and_begin_at_their_edge():
    """An exact selection needs the first; thresholds in a preview are told by the second."""
    some = np.random.default_rng(0).random(100_000, dtype=np.float32)
    near = 1 - np.geomspace(1e-7, 1, 20_000).astype(np.float32)
    confidence = np.unique(np.concatenate([some, near, np.float32([0, 0.9, 0.99, 0.999, 1])]))
    with duckdb.connect() as connection:
        connection.register("values", {"confidence": confidence})
        told = connection.execute(f"SELECT confidence, {quota.BIN_SQL} AS bin FROM values ORDER BY 1").fetchnumpy()

    assert (np.diff(told["bin"]) >= 0).all()
    edges = np.array([quota.bin_edge(int(number)) for number in told["bin"]])
    assert (edges <= told["confidence"] + 1e-6).all()
    assert (told["confidence"] - edges < 0.00101).all()


@given(bins=BINS, target=st.integers(1, 1000), max_copies=st.integers(1, 5))
def test_the_official_form_stops_at_the_first_bin_that_fills_the_class(bins, target, max_copies):
    """As filter_unlabel.py does, with a limit to the copies."""
    told = quota.thinned(bins, target, max_copies)

    above = sum(num for number, num in bins.items() if number > told.bin)
    assert told.kept == above + bins[told.bin]
    assert above < target
    assert told.kept >= target or told.bin == min(bins)
    assert told.copies == min(max_copies, target / told.kept)


def test_targets_follow_the_labeled_set():
    """In proportion, at least one of each; or as many as was said."""
    assert quota.targets({0: 30, 1: 10}, ["a", "b", "c"], {"a": 1, "b": 3}, None) == {0: 10, 1: 30, 2: 1}
    assert quota.targets({0: 30}, ["a", "b"], {"a": 1, "b": 3}, 7) == {0: 7, 1: 7}


def test_bins_of_an_array_are_those_of_sql():
    """At every edge, beside it, and anywhere."""
    edges = np.array([quota.bin_edge(number) for number in range(3700)], np.float32)
    beside = [np.nextafter(edges, np.float32(to)) for to in (0, 1)]
    anywhere = np.random.default_rng(0).random(2000, np.float32)
    confidence = np.concatenate([edges, *beside, anywhere, 1 - anywhere / 1000]).astype(np.float32)
    rows = labels.table({"confidence": confidence.tolist()}, confidence="float")
    with duckdb.connect() as connection:
        connection.register("confidences", rows)
        of_sql = [number for (number,) in connection.sql(f"SELECT {quota.BIN_SQL} FROM confidences").fetchall()]

    assert quota.bins_of(confidence).tolist() == of_sql
    assert max(of_sql) < quota.NUM_BINS
