"""From a version's name to what serves it: fetched, verified, warm and timed, with its queue.

On a CPU a version is loaded twice: with one thread a lane, which gives the most images a second, and
with all threads for an image that has the machine to itself. Versions of one architecture take the
same time, so only the first of each is timed, and briefly where somebody is being served meanwhile.
"""

import logging
from dataclasses import dataclass
from functools import partial

from starlette.concurrency import run_in_threadpool

from service import memory
from service.admission import Admission
from service.batcher import Batcher, Lanes
from service.metrics import Metrics
from understudy import engine, registry, tuning
from understudy.catalog import Catalog
from understudy.engine import Engine
from understudy.settings import ServiceSettings
from understudy.store import Store
from understudy.tuning import Tuning

log = logging.getLogger(__name__)

#: Stop making batches larger after so many doublings that gained nothing: two, for one may be noise.
MAX_VAIN_DOUBLINGS = 2

#: What decides how long a batch takes, apart from the machine.
Architecture = tuple[str, int, int, str, str]


@dataclass(frozen=True)
class Timing:
    """What was measured of one architecture on this machine."""

    tuning: Tuning
    is_lone_faster: bool


@dataclass
class Loader:
    """Loads versions for one process."""

    store: Store
    catalog: Catalog
    settings: ServiceSettings
    lanes: Lanes
    admission: Admission
    metrics: Metrics

    def __post_init__(self) -> None:
        self._timings: dict[Architecture, Timing] = {}
        self._variant_rates: registry.Remembered = {}

    async def load(self, version: str) -> Batcher:
        """A version, ready to serve. Raises NotFound, ArtifactRefused."""
        return await run_in_threadpool(self._load, version, is_champion=True)

    async def load_challenger(self, version: str) -> Batcher:
        """The same for one that gets a share at the most: what is accepted goes by the champion's speed."""
        return await run_in_threadpool(self._load, version, is_champion=False)

    def _load(self, version: str, *, is_champion: bool) -> Batcher:
        artifact, card = registry.fetch(self.store, self.catalog, version)
        is_serving = bool(self._timings)
        open_engine = partial(engine.load, card=card, provider=self.settings.provider, arena=True)
        narrow = open_engine(artifact, threads=self.lanes.threads)
        if self.settings.variants == "auto":
            narrow = self._fastest_variant(narrow, is_serving)
        file = artifact if narrow.variant == engine.FP32 else registry.fetch_variant(self.store, card, narrow.variant)
        cores = self.lanes.num_lanes
        wide = open_engine(file, threads=cores, variant=narrow.variant) if cores > 1 else None
        timing = self._timing(narrow, wide, is_serving, is_champion)
        for opened in filter(None, (narrow, wide)):  # proving and timing took larger batches than will come
            opened.release_memory()
        memory.trim()
        self.metrics.loaded(narrow, timing.tuning)
        return Batcher(
            engine=narrow,
            tuning=timing.tuning,
            lanes=self.lanes,
            lone=wide if timing.is_lone_faster else None,
            is_alone=lambda: self.admission.is_alone,
            max_wait_s=self.settings.max_wait_ms / 1000,
            on_batch=self.metrics.batches(version),
        )

    def _fastest_variant(self, loaded: Engine, is_serving: bool) -> Engine:
        chosen, why = registry.choose_variant(
            self.store,
            loaded,
            num_lanes=self._lanes_to_time(is_serving),
            seconds_each=self._seconds_each(is_serving),
            arena=True,
            remembered=self._variant_rates,
        )
        for reason in why.reasons:
            log.info("%s: %s", loaded.version, reason)
        return chosen

    def _timing(self, narrow: Engine, wide: Engine | None, is_serving: bool, is_champion: bool) -> Timing:
        card = narrow.card
        architecture = (card.student, card.preprocessing.size, len(card.classes), narrow.provider, narrow.variant)
        if architecture not in self._timings:
            timing = self._measure(narrow, wide, is_serving)
            self._timings[architecture] = timing
            if is_champion:
                self.admission.rate.expect(timing.tuning.images_per_second)
            log.info("%s", _in_words(card.version, timing))
        return self._timings[architecture]

    def _measure(self, narrow: Engine, wide: Engine | None, is_serving: bool) -> Timing:
        """Find how far doubling the batch gains anything; then time those sizes in turns, so that noise hits them all."""
        seconds_each = self._seconds_each(is_serving)
        timed = partial(tuning.measure, narrow, num_lanes=self._lanes_to_time(is_serving))
        sizes: list[int] = []
        best, num_vain, gain = 0.0, 0, tuning.min_batch_gain(narrow.provider)
        for size in tuning.batch_sizes(self.settings.max_batch):
            sizes.append(size)
            rate = size / timed(batch_sizes=[size], seconds_each=0.0)[size]
            num_vain = 0 if rate > best * (1 + gain) else num_vain + 1
            best = max(best, rate)
            if num_vain == MAX_VAIN_DOUBLINGS:  # larger ones would only take memory
                break
        chosen = tuning.choose(
            timed(batch_sizes=sizes, seconds_each=seconds_each),
            provider=narrow.provider,
            num_lanes=self.lanes.num_lanes,
            threads=self.lanes.threads,
        )
        is_lone_faster = wide is not None and tuning.is_faster_alone(wide, narrow, seconds_each=seconds_each)
        return Timing(chosen, is_lone_faster)

    def _seconds_each(self, is_serving: bool) -> float:
        """While somebody is served, as briefly as can be."""
        return 0.0 if is_serving else self.settings.measure_s

    def _lanes_to_time(self, is_serving: bool) -> int:
        """All of them, unless they serve: what they are busy with would be timed too."""
        return 1 if is_serving else self.lanes.num_lanes


def _in_words(version: str, timing: Timing) -> str:
    chosen = timing.tuning
    passes = ", ".join(f"{n}: {1000 * seconds:.3g} ms" for n, seconds in chosen.batch_seconds.items())
    lone = "; a lone image gets all cores" if timing.is_lone_faster else ""
    return (
        f"{version} takes {passes} for a batch: {chosen.num_lanes} lane(s) of {chosen.threads} thread(s), "
        f"batches of at most {chosen.max_batch}, about {chosen.images_per_second:.0f} images/s without decoding{lone}"
    )
