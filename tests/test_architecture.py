"""The architecture as tests: which way imports go, who may use which library, what things are called.

It reads the source, and imports none of it.
"""

import ast
import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAMS = ("service", "worker", "trainer", "dashboard")
PACKAGES = ("understudy", *PROGRAMS)

MODULES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

#: What a package must not import.
ARROWS = {
    "understudy": {*PROGRAMS, "torch", "torchvision", "timm", "fastapi", "starlette"},
    "service": {"worker", "trainer", "dashboard"},
    "worker": {"service", "trainer", "dashboard"},
    "trainer": {"service", "worker", "dashboard"},
    # It knows the system as any client does.
    "dashboard": {"service", "worker", "trainer", "sqlalchemy", "httpx", "obstore"},
}

#: The files or folders that may import a library: its door.
DOORS = {
    # The trainer's variants are made with its converters; they run in the engine.
    "onnxruntime": ("understudy/engine.py", "trainer/variants.py"),
    # Test pictures are made with it, the trainer's noise works on its images, and contact sheets are drawn. None decodes.
    "PIL": ("understudy/images.py", "understudy/testing.py", "trainer/noise.py", "trainer/pictures.py"),
    "obstore": ("understudy/store.py",),
    "sqlalchemy": ("understudy/catalog/",),
    "alembic": ("understudy/catalog/",),
    "celery": ("understudy/messages.py", "worker/"),
    "kombu": ("understudy/messages.py", "worker/"),
    "torch": ("trainer/",),
    "timm": ("trainer/",),
    "torchvision": ("trainer/",),
    "pyarrow": ("understudy/labels.py",),
    "duckdb": ("understudy/labels.py",),
    "matplotlib": ("trainer/plots.py",),
    "tensorboard": ("trainer/events.py",),
    "mlflow": ("trainer/tracking.py",),
    "fastapi": ("service/", "dashboard/"),
    "starlette": ("service/", "dashboard/"),
    "uvicorn": ("service/", "dashboard/__main__.py"),
    "nicegui": ("dashboard/",),
    # What the service counts is read again by the page that shows it.
    "prometheus_client": ("service/metrics.py", "dashboard/traffic.py"),
    "httpx": ("understudy/client.py",),
    "httpcore": ("worker/fetching.py",),
    "zstandard": ("worker/tars.py",),
    "opentelemetry": ("understudy/telemetry.py",),
    "pydantic_settings": ("understudy/settings.py",),
}

#: The settings' file reads the environment; what starts children may hand it on.
ENVIRONMENT_DOORS = ("understudy/settings.py",)

#: Words that name nothing.
FORBIDDEN_WORDS = {"manager", "helper", "helpers", "util", "utils", "common", "misc", "processor"}

MAX_FUNCTION_LINES = 60

Function = ast.FunctionDef | ast.AsyncFunctionDef


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


@cache
def imports_of(path: Path) -> list[tuple[str, int]]:
    """Every dotted name that a file imports, at its head or inside a function, and the line."""
    found: list[tuple[str, int]] = []
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Import):
            found += ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found += ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)
    return found


def imports_within(path: Path, forbidden: set[str]) -> list[str]:
    return [
        f"{name_of(path)}:{line} imports {name}" for name, line in imports_of(path) if name.split(".")[0] in forbidden
    ]


def is_inside(path: Path, doors: tuple[str, ...]) -> bool:
    return any(name_of(path) == door or (door.endswith("/") and name_of(path).startswith(door)) for door in doors)


def words_of(name: str) -> set[str]:
    """``ShardManager`` and ``shard_manager`` are both of the words shard and manager."""
    return set(re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name).lower().split("_"))


@pytest.mark.parametrize("package", ARROWS)
def test_imports_go_one_way(package):
    """The programs import the core, never each other; the core imports neither them nor their libraries."""
    faults = [f for path in MODULES if is_inside(path, (f"{package}/",)) for f in imports_within(path, ARROWS[package])]

    assert not faults, f"{package}/ must not import these; meet in the catalog, the store or the queue: {faults}"


@pytest.mark.parametrize("library", DOORS)
def test_every_library_has_one_door(library):
    """A third-party library is imported where its door is, and nowhere else."""
    faults = [f for path in MODULES if not is_inside(path, DOORS[library]) for f in imports_within(path, {library})]

    assert not faults, f"go through {' or '.join(DOORS[library])} instead: {faults}"


def test_every_door_is_there():
    """A door that was moved away is taken off this list."""
    gone = [door for doors in DOORS.values() for door in doors if not (ROOT / door).exists()]

    assert not gone, f"these doors are no files any more; correct DOORS: {gone}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_the_settings_read_the_environment(path):
    """Everything else is handed its settings."""
    if is_inside(path, ENVIRONMENT_DOORS):
        return
    faults = [
        f"{name_of(path)}:{node.lineno}"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute)
        and node.attr in {"environ", "environb", "getenv", "putenv"}
        and isinstance(node.value, ast.Name)
        and node.value.id == "os"
    ] + [f for f in imports_within(path, {"os"}) if f.endswith(("os.environ", "os.getenv"))]

    assert not faults, f"read it in understudy/settings.py and pass it down: {faults}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_no_file_bears_the_name_of_a_standard_library_module(path):
    """A file run from its own folder must not shadow the standard library."""
    names = {path.stem, path.parent.name if path.name == "__init__.py" else path.stem} - {"__init__", "__main__"}

    assert not names & sys.stdlib_module_names, f"rename {name_of(path)}: the standard library has that name"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_names_name_something(path):
    """No file, class or function is called manager, helper, util, common, misc or processor."""
    defined = [n for n in ast.walk(tree_of(path)) if isinstance(n, Function | ast.ClassDef)]
    names = [*path.relative_to(ROOT).with_suffix("").parts, *(node.name for node in defined)]
    faults = [name for name in names if words_of(name) & FORBIDDEN_WORDS]

    assert not faults, f"{name_of(path)}: say what these are in a word of the glossary (design §2): {faults}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_every_module_says_what_it_is(path):
    """Every module begins with a docstring."""
    if path.read_text(encoding="utf-8").strip():
        assert ast.get_docstring(tree_of(path)), f"{name_of(path)}: begin with one to six lines that say what it is"


@pytest.mark.parametrize("path", [p for p in MODULES + TESTS if "migrations" not in p.parts], ids=name_of)
def test_functions_are_short(path):
    """No function has more than sixty lines; a migration, which is a list of columns, may."""
    functions = [node for node in ast.walk(tree_of(path)) if isinstance(node, Function)]
    lengths = {f"{f.name} (line {f.lineno})": (f.end_lineno or f.lineno) - f.lineno + 1 for f in functions}
    faults = {name: length for name, length in lengths.items() if length > MAX_FUNCTION_LINES}

    assert not faults, f"{name_of(path)}: split these where they can be tested: {faults}"


def test_the_tests_are_no_package():
    """tests/ has no __init__.py, so that no test can be imported by another."""
    faults = [name_of(path) for path in TESTS if path.name == "__init__.py"]

    assert not faults, f"delete these: {faults}"


@pytest.mark.parametrize("path", [p for p in TESTS if p.name.startswith("test_")], ids=name_of)
def test_every_test_module_mirrors_a_module(path):
    """tests/understudy/test_store.py tests understudy/store.py."""
    place = path.relative_to(ROOT / "tests")
    if place.parts[0] not in PACKAGES:
        return  # about the whole, as this file is
    tested = ROOT / place.with_name(place.name.removeprefix("test_"))

    assert tested.exists() or tested.with_suffix("").is_dir(), f"{name_of(path)} tests nothing of its name; rename it"


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_nothing_is_mocked(path):
    """Instead of patching: a plain function, a ten-line class, the real thing."""
    faults = [f"line {line}" for name, line in imports_of(path) if name.startswith(("unittest.mock", "mock."))]

    assert not faults, f"{name_of(path)}: pass a small real object instead: {faults}"


@pytest.mark.parametrize("path", TESTS, ids=name_of)
def test_no_test_sleeps(path):
    """A test waits for an event, or asks again within a bound; it does not sleep and hope."""
    calls = [node for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)]
    faults = [f"line {c.lineno}" for c in calls if ast.unparse(c.func) in {"time.sleep", "sleep"}]

    assert not faults, f"{name_of(path)}: wait for what you wait for: {faults}"


@pytest.mark.parametrize("path", [p for p in TESTS if p.name.startswith("test_")], ids=name_of)
def test_every_test_says_what_it_expects(path):
    """Every test has a docstring: a sentence of expected behaviour."""
    functions = [node for node in ast.walk(tree_of(path)) if isinstance(node, Function)]
    faults = [f.name for f in functions if f.name.startswith("test_") and not ast.get_docstring(f)]

    assert not faults, f"{name_of(path)}: say in one sentence what these expect: {faults}"
