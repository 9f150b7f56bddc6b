"""Settings: read once, refused with the name of the bad variable, handed on to children unchanged."""

import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from understudy.errors import SettingsRefused
from understudy.settings import (
    MAX_SOCKET_PATH,
    ServiceSettings,
    Settings,
    TrainerSettings,
    WorkerSettings,
    metrics_folder,
    read,
    redis_socket,
    sharing_metrics,
    use_one_device,
)

KINDS = [Settings, ServiceSettings, WorkerSettings, TrainerSettings]


@pytest.fixture(autouse=True)
def no_settings(monkeypatch):
    """The environment of the machine that runs the tests plays no part."""
    for name in [n for n in os.environ if n.startswith(("UNDERSTUDY_", "OTEL_", "PROMETHEUS_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_need_be_set_on_one_machine(kind, tmp_path, monkeypatch):
    """Everything defaults to files in the data folder."""
    monkeypatch.chdir(tmp_path)

    settings = read(kind)

    data = tmp_path / "understudy-data"
    assert settings.data == data
    assert settings.catalog_url == f"sqlite:///{data}/catalog.db"
    assert settings.store_url == f"file://{data}/store"
    assert settings.broker_url.startswith("redis+socket:///")
    assert settings.spool.is_relative_to(data)


def test_the_environment_sets_and_the_caller_overrides(monkeypatch):
    """A variable replaces the default, an argument replaces the variable."""
    monkeypatch.setenv("UNDERSTUDY_PORT", "9000")
    monkeypatch.setenv("UNDERSTUDY_CATALOG_URL", "postgresql+psycopg://db/understudy")

    assert read(ServiceSettings).port == 9000
    assert read(ServiceSettings).catalog_url == "postgresql+psycopg://db/understudy"
    assert read(ServiceSettings, port=9001).port == 9001


@pytest.mark.parametrize(
    ("kind", "name", "value"),
    [
        (Settings, "LEASE_S", "soon"),
        (Settings, "LEASE_S", "0"),
        (Settings, "LOG_FORMAT", "xml"),
        (ServiceSettings, "PORT", "70000"),
        (ServiceSettings, "MAX_BATCH", "0"),
        (ServiceSettings, "PROCESSES", "0"),
        (ServiceSettings, "OTLP_ENDPOINT", "localhost:4318"),
        (WorkerSettings, "SHARD_IMAGES", "5000"),
        (TrainerSettings, "POLL_S", "-1"),
    ],
)
def test_a_bad_value_names_its_variable(monkeypatch, kind, name, value):
    """The message gives the variable, the value it had, and what is wrong with it."""
    monkeypatch.setenv(f"UNDERSTUDY_{name}", value)

    with pytest.raises(SettingsRefused, match=f"UNDERSTUDY_{name}='?{value}'?: "):
        read(kind)


def test_all_bad_values_are_told_at_once(monkeypatch):
    """Nobody has to start a program twice to learn of two mistakes."""
    monkeypatch.setenv("UNDERSTUDY_PORT", "x")
    monkeypatch.setenv("UNDERSTUDY_LEASE_S", "y")

    with pytest.raises(SettingsRefused, match=r"(?s)UNDERSTUDY_LEASE_S='y'.*UNDERSTUDY_PORT='x'"):
        read(ServiceSettings)


@pytest.mark.parametrize("kind", KINDS)
def test_a_child_process_reads_back_the_same_settings(monkeypatch, tmp_path, kind):
    """What environment() gives is all that a child needs to have the same settings."""
    settings = read(kind, data=tmp_path / "größe 1", lease_s=7.5, broker_url="redis://elsewhere/0")

    for name, value in settings.environment().items():
        monkeypatch.setenv(name, value)

    assert read(kind) == settings


@pytest.mark.parametrize("kind", KINDS)
def test_settings_do_not_change(kind):
    """Settings are frozen: nothing can change them after the start."""
    with pytest.raises(ValidationError, match="frozen"):
        read(kind).lease_s = 5.0


@pytest.mark.parametrize(
    ("log_format", "said", "expected"),
    [("text", None, False), ("json", None, True), ("text", "true", True), ("json", "false", False)],
)
def test_the_access_log_is_on_with_json_unless_told_otherwise(monkeypatch, log_format, said, expected):
    """Machines expect it; people ask for it."""
    monkeypatch.setenv("UNDERSTUDY_LOG_FORMAT", log_format)
    if said is not None:
        monkeypatch.setenv("UNDERSTUDY_ACCESS_LOG", said)

    assert read(ServiceSettings).access_log is expected


def test_the_standard_name_of_the_collector_is_honoured(monkeypatch):
    """Our own says more."""
    assert read(ServiceSettings).otlp_endpoint == ""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://standard:4318")
    assert read(ServiceSettings).otlp_endpoint == "http://standard:4318"
    monkeypatch.setenv("UNDERSTUDY_OTLP_ENDPOINT", "http://ours:4318")
    assert read(ServiceSettings).otlp_endpoint == "http://ours:4318"


def test_metrics_are_shared_only_in_a_folder_that_was_given(monkeypatch, tmp_path):
    """What a parent puts into the environment, its children read."""
    assert metrics_folder() is None
    for name, value in sharing_metrics({}, tmp_path).items():
        monkeypatch.setenv(name, value)
    assert metrics_folder() == tmp_path


def test_the_socket_is_in_the_data_folder_if_its_path_is_short():
    """On most machines everything is in one folder."""
    assert redis_socket(Path("/data")) == Path("/data/run/redis.sock")


def test_a_long_data_path_gets_a_short_socket_path(tmp_path):
    """No system takes a socket path of more than about 100 bytes; each long folder gets one of its own."""
    long = tmp_path / ("ü" * 60) / "data"

    path = redis_socket(long)

    assert len(str(path).encode()) <= MAX_SOCKET_PATH
    assert path == redis_socket(long)
    assert path != redis_socket(long / "other")


def test_every_shared_setting_is_described():
    """Whoever adds a setting to the shared ones says what it is for."""
    assert [n for n, f in Settings.model_fields.items() if not f.description] == []


#: Set by programs for their children, or the same for all programs: no reader of the service's documentation needs them.
FOR_PROGRAMS = {"listen_fd", "data", "lease_s"}


def test_every_setting_of_the_service_is_documented():
    """By its name or by its variable, in docs/ or in the README."""
    root = Path(__file__).parents[2]
    docs = "".join(path.read_text() for path in [*(root / "docs").glob("*.md"), root / "README.md"])
    wanted = set(ServiceSettings.model_fields) - FOR_PROGRAMS

    missing = {name for name in wanted if f"`{name}`" not in docs and f"UNDERSTUDY_{name.upper()}" not in docs}

    assert not missing, f"say what these are in docs/serving.md or docs/operations.md: {missing}"


def test_every_pool_process_sees_one_gpu(tmp_path, monkeypatch):
    """The one of its number: of those named, of those visible, or of those that the machine has, in turn."""
    for name in ("nvidia0", "nvidia1", "nvidia10", "nvidiactl"):
        (tmp_path / name).touch()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    chosen = []
    for child in range(4):
        chosen.append(use_one_device(child, root=tmp_path))
        assert os.environ.pop("CUDA_VISIBLE_DEVICES") == chosen[-1]
    assert chosen == ["0", "1", "10", "0"]
    assert use_one_device(1, "3,GPU-5d2", root=tmp_path) == "GPU-5d2"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    assert use_one_device(0, root=tmp_path) == "4"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")  # as one says that none shall be used
    assert use_one_device(0, root=tmp_path) is None
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    assert use_one_device(0, root=tmp_path / "nowhere") is None
