"""Loading: a version becomes a queue with an engine that was proved, timed and made small again."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from service.admission import Admission, Rate
from service.batcher import Lanes
from service.loading import Loader
from service.metrics import Metrics
from understudy import registry, settings
from understudy.catalog import Catalog
from understudy.errors import ArtifactRefused, NotFound
from understudy.settings import ServiceSettings
from understudy.store import Store
from understudy.testing import tiny_artifact


@pytest.fixture
def publish(sqlite_catalog: Catalog, local_store: Store) -> Callable[..., str]:
    """Puts a tiny version into the registry."""

    def published(**kwargs: Any) -> str:
        artifact, card = tiny_artifact(("red", "green"), **kwargs)
        registry.publish(local_store, sqlite_catalog, card, artifact, b"weights")
        return card.version

    return published


@pytest.fixture
def loader(sqlite_catalog: Catalog, local_store: Store) -> Iterator[Callable[..., Loader]]:
    """Makes loaders, of one lane or of several."""
    with ThreadPoolExecutor(1) as pool:

        def made(*, num_lanes: int = 2, **changed: Any) -> Loader:
            admission = Admission(Rate(1.0, lambda: 0.0), max_images=10, num_lanes=num_lanes)
            chosen = settings.read(ServiceSettings, **changed)
            return Loader(local_store, sqlite_catalog, chosen, Lanes(pool, num_lanes), admission, Metrics())

        yield made


async def test_a_version_is_loaded_with_its_tuning_and_shown(
    loader: Callable[..., Loader], publish: Callable[..., str]
):
    """The batcher serves that version; what was chosen is on /metrics, and admission expects what was measured."""
    loading = loader(max_batch=4)
    version = publish()

    batcher = await loading.load(version)

    assert batcher.engine.version == version
    assert 1 <= batcher.tuning.max_batch <= 4
    assert set(batcher.tuning.batch_seconds) <= {1, 2, 4}
    assert f'understudy_batch_limit_images{{model="{version}"}}' in loading.metrics.render().decode()
    assert loading.admission.rate.per_second == pytest.approx(batcher.tuning.images_per_second)


async def test_versions_of_one_architecture_are_timed_once(loader: Callable[..., Loader], publish: Callable[..., str]):
    """A swap does not measure again what it knows; another input size is another architecture."""
    loading = loader()
    first = await loading.load(publish())
    again = await loading.load(publish(sharpness=5.0))
    other = await loading.load(publish(size=16))

    assert again.engine.version != first.engine.version
    assert again.tuning is first.tuning
    assert other.tuning is not first.tuning


async def test_one_lane_needs_no_second_engine_for_a_lone_image(
    loader: Callable[..., Loader], publish: Callable[..., str]
):
    """It has all of the machine anyway."""
    assert (await loader(num_lanes=1).load(publish())).lone is None


async def test_what_cannot_be_served_is_refused(
    loader: Callable[..., Loader], publish: Callable[..., str], local_store: Store
):
    """An unknown version, and one whose file was damaged since."""
    loading = loader()
    with pytest.raises(NotFound):
        await loading.load("g0009-000000")
    version = publish()
    key = f"models/{version}/model.onnx"
    local_store.replace(key, local_store.get(key)[:-1] + b"\0")
    with pytest.raises(ArtifactRefused, match="sha-256"):
        await loading.load(version)
