"""docs/guide.md as somebody follows it: every command, in its order, on a folder of photos."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from understudy import registry
from understudy.catalog import Catalog, shards, versions
from understudy.client import Client
from understudy.store import Store
from understudy.testing import free_port, picture

ROOT = Path(__file__).parents[2]
CLASSES = ("cat", "dog", "owl")
#: What the guide's recipe takes minutes for, in seconds: all else is run as written.
SHORTER = "--recipe tiny --set size=16 --set teacher_steps=60 --set student_steps=40 --set warmup_steps=5"
_COMMAND = re.compile(r"^\$ (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"```console\n(.*?)```", re.DOTALL)


def _commands(page: str) -> list[str]:
    text = (ROOT / "docs" / page).read_text()
    return [line for block in _BLOCK.findall(text) for line in _COMMAND.findall(block)]


def _backup() -> list[str]:
    """docs/operations.md's three lines, on the guide's folder: a copy that is made while everything runs."""
    lines = _commands("operations.md")
    first = lines.index("mkdir backup")
    return [line.replace("understudy-data", "photos-data") for line in lines[first : first + 3]]


def _restore() -> str:
    """docs/operations.md's line that starts on the copy."""
    return next(line for line in _commands("operations.md") if line.endswith("up --data backup"))


def _is_whole(backup: Path) -> None:
    """Whatever the copied catalog names is in the copied store."""
    store = Store((backup / "store").as_uri())
    with closing(Catalog(f"sqlite:///{backup / 'catalog.db'}")) as catalog:
        champion = versions.champion(catalog)
        assert champion is not None
        assert registry.load(store, catalog, champion.version, provider="cpu").version == champion.version
        sealed = [*shards.of_split(catalog, "labeled"), *shards.of_split(catalog, "unlabeled")]
        assert sealed
        assert all(store.exists(shard.key) for shard in sealed)


#: What other pages ask of a system that runs and has turned, which is the guide's.
OF_OTHER_PAGES = {
    "recipes.md": ("understudy recipes ",),
    "operations.md": ("understudy doctor", "curl -si", "understudy pause", "understudy status", "understudy resume"),
    "gate.md": ("understudy gate ", "understudy compare ", "understudy promote "),
}


def _of_other_pages(url: str) -> list[str]:
    """Their commands, with the guide's folder and versions in place of the pages'."""
    with Client(url) as client:
        models = client.models()
    ours = {model.generation: model.id for model in models}
    idle = next(model.id for model in models if not model.is_champion)
    lines = [
        line.split("  #")[0]
        for page, begin in OF_OTHER_PAGES.items()
        for line in _commands(page)
        if line.startswith(begin)
    ]
    words = {"g0003-6286ab": ours[1], "g0002-df553c": ours[0], "g0002-35bf4a": idle, "--class 9": "--class cat"}
    for old, new in (words | {"--data understudy-data": "--data photos-data"}).items():
        assert any(old in line for line in lines), old
        lines = [line.replace(old, new) for line in lines]
    return [f".venv/bin/{line}" if line.startswith("understudy") else line for line in lines]


def _more_of_a_holdout() -> list[str]:
    """docs/review.md's two lines."""
    lines = [f".venv/bin/{line}" for line in _commands("review.md")]
    first = next(i for i, line in enumerate(lines) if "corrections --to" in line)
    return lines[first : first + 2]


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """The folders that the guide begins with."""
    for i in range(90):
        place = tmp_path / "photos" / "labeled" / CLASSES[i % 3] / f"{i // 3:03d}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(picture(i % 3, 3, seed=i, size=16, noise=60))
    (tmp_path / "photos" / "unlabeled").mkdir()
    for i in range(1, 61):
        photo = picture(i % 3, 3, seed=1000 + i, size=16, noise=60)
        (tmp_path / "photos" / "unlabeled" / f"IMG_{i:04d}.jpg").write_bytes(photo)
    return tmp_path


@pytest.fixture
def run(photos: Path) -> Callable[[str], str]:
    """Run a command of the page in the folder around the photos; what it prints."""
    environment = dict(os.environ) | {"COLUMNS": "160", "NO_PROXY": "127.0.0.1"}

    def done(command: str) -> str:
        finished = subprocess.run(
            command, shell=True, cwd=photos, env=environment, capture_output=True, text=True, timeout=400
        )
        assert finished.returncode in (0, 3), f"$ {command}\n{finished.stdout}{finished.stderr}"
        return finished.stdout

    return done


@pytest.fixture
def as_here() -> Callable[[str], str]:
    """A command of the page in the words of this machine: this Python's programs, free ports, a short training."""
    port, dashboard = free_port(), free_port()
    programs = Path(sys.executable).parent

    def said(command: str) -> str:
        command = command.replace(".venv/bin/", f"{shlex.quote(str(programs))}/").replace("--recipe small", SHORTER)
        if " up " in command:
            return f"{command} --port {port} --dashboard-port {dashboard}"
        if "/understudy " in command and "/understudy recipes" not in command:  # which asks nobody
            return f"{command} --url http://127.0.0.1:{port}"
        return command.replace("127.0.0.1:8000", f"127.0.0.1:{port}")

    return said


def accept_one_of_later(photos: Path, understudy: Callable[[str], str], until: Callable[..., None]) -> None:
    """A photo that came after the last generation, which no student has learned from, reviewed."""
    (photos / "later").mkdir()
    (photos / "later" / "new.jpg").write_bytes(picture(0, 3, seed=5000, size=16, noise=60))
    understudy("ingest later --bucket later")
    labeled = "labels --bucket later --json"
    until(lambda: understudy(labeled) != "")
    (label,) = map(json.loads, understudy(labeled).splitlines())
    understudy(f"review --accept {label['sha256']}")


@pytest.mark.timeout(600)
def test_the_guide_leads_to_the_second_generation(
    photos: Path, run: Callable[[str], str], as_here: Callable[[str], str], until: Callable[..., None]
):
    """From the folder to a judged student and sorted photos, by the page's own commands."""
    start, *commands = map(as_here, _commands("guide.md"))
    assert " up " in start
    with subprocess.Popen(
        shlex.split(start), cwd=photos, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as up:
        assert up.stdout is not None
        try:
            assert any("Ready" in line for line in up.stdout)
            printed = {command: run(command) for command in commands}
            for line in _backup():
                run(as_here(line))
            accept_one_of_later(photos, lambda command: run(as_here(f".venv/bin/understudy {command}")), until)
            more = [run(as_here(line)) for line in _more_of_a_holdout()]
            for line in _of_other_pages(as_here("http://127.0.0.1:8000")):
                run(as_here(line))
        finally:
            up.send_signal(signal.SIGINT)
            up.communicate(timeout=90)
    with subprocess.Popen(
        shlex.split(as_here(_restore())), cwd=photos, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as up:
        assert up.stdout is not None
        try:
            assert any("Ready" in line for line in up.stdout)
            classified = run(as_here(next(line for line in _commands("guide.md") if "classify photos/" in line)))
        finally:
            up.send_signal(signal.SIGINT)
            up.communicate(timeout=90)
    assert any(name in classified for name in CLASSES)
    said = "\n".join(printed.values())
    assert "generation 1" in said
    assert "g0001-" in said
    assert "g0000-" in said
    assert "1 accepted" in more[-1]
    _is_whole(photos / "backup")
    assert len([path for path in (photos / "sorted").rglob("*") if path.suffix in (".jpg", ".png")]) > 0
