"""``understudy keys``, as people and scripts call it."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner, Result

from understudy.catalog import Catalog, keys
from understudy.cli import commands
from understudy.cli import keys as key_commands

COMMANDS = typer.main.get_command(key_commands.app)
assert isinstance(COMMANDS, TyperGroup)

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command on a data folder of this test."""
    for name in ("UNDERSTUDY_CATALOG_URL", "UNDERSTUDY_DATA"):
        monkeypatch.delenv(name, raising=False)

    def run(*words: object) -> Result:
        return CliRunner().invoke(commands.app, ["keys", *map(str, words), "--data", str(tmp_path)])

    return run


@pytest.fixture
def made(run: Run, tmp_path: Path) -> Iterator[Catalog]:
    """The catalog that the commands write, made by a first key."""
    assert run("create", "--name", "first", "--scope", "admin").exit_code == 0
    catalog = Catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    yield catalog
    catalog.close()


@pytest.mark.parametrize("name", COMMANDS.commands)
def test_the_help_of_every_command_teaches(name: str):
    """What it does, and of every option and argument what it means."""
    command = COMMANDS.commands[name]
    assert command.help
    untaught = [p.name for p in command.params if not getattr(p, "help", None)]
    assert not untaught, f"say what these mean: {untaught}"


def test_a_new_key_is_alone_on_standard_output(run: Run, tmp_path: Path):
    """So that a script can take it; for people, standard error says that it is not shown again."""
    result = run("create", "--name", "laptop", "--scope", "classify", "--scope", "ingest", "--rate-limit", "5")

    key_id = re.fullmatch(r"us_([0-9a-f]{12})_[0-9a-f]{64}\n", result.stdout).group(1)  # type: ignore[union-attr]
    assert f"Key {key_id} (laptop) opens: classify, ingest." in result.stderr
    assert "never be shown again" in result.stderr
    assert result.stdout.strip() not in result.stderr
    catalog = Catalog(f"sqlite:///{tmp_path / 'catalog.db'}")
    assert [(k.id, k.name, k.scopes, k.rate_limit) for k in keys.every(catalog)] == [
        (key_id, "laptop", ("classify", "ingest"), 5.0)
    ]
    catalog.close()


def test_as_json_the_key_comes_with_what_is_known_of_it(run: Run):
    """For scripts that want the id too."""
    said = json.loads(run("create", "--name", "laptop", "--scope", "classify", "--json").stdout)

    assert said["key"].startswith(f"us_{said['id']}_")
    assert (said["name"], said["scopes"]) == ("laptop", ["classify"])


def test_the_list_shows_every_key_and_no_secret(run: Run, made: Catalog):
    """As a table and as JSON; a name that looks like markup is printed as it is."""
    key = run("create", "--name", "[red]shop[/red]", "--scope", "classify").stdout.strip()
    run("revoke", keys.every(made)[1].id)

    table, listed = run("list").stdout, run("list", "--json").stdout

    assert all(known.id in table for known in keys.every(made))
    assert "[red]shop[/red]" in table
    assert [k["name"] for k in json.loads(listed)] == ["[red]shop[/red]", "first"]
    assert [k["revoked_at"] is None for k in json.loads(listed)] == [True, False]
    secret = key.split("_")[2]
    assert secret not in table + listed


def test_a_revoked_key_is_named(run: Run, made: Catalog):
    """With its id and name, and it is revoked in the catalog."""
    known = keys.every(made)[0]

    assert run("revoke", known.id).stdout == f"Key {known.id} (first) is revoked.\n"
    assert keys.every(made)[0].revoked_at is not None


def test_the_environment_names_the_catalog(empty_catalog_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As in a container of the service, on both engines."""
    monkeypatch.setenv("UNDERSTUDY_CATALOG_URL", empty_catalog_url)
    monkeypatch.chdir(tmp_path)

    result = CliRunner().invoke(commands.app, ["keys", "create", "--name", "laptop", "--scope", "admin"])

    assert result.exit_code == 0
    catalog = Catalog(empty_catalog_url)
    assert [k.name for k in keys.every(catalog)] == ["laptop"]
    catalog.close()
    assert not (tmp_path / "understudy-data").exists()


def process(*words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command as people do."""
    command = [sys.executable, "-m", "understudy", "keys", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment or None)


def test_a_folder_without_a_catalog_is_one_line_and_stays_without(tmp_path: Path):
    """A slip in the name of the folder must not make an empty catalog."""
    done = process("list", "--data", tmp_path / "missing")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"understudy: there is no catalog {tmp_path}/missing/catalog.db; ")
    assert not (tmp_path / "missing").exists()


def test_a_catalog_that_is_away_is_one_line_without_its_password():
    """What the database driver said, and not the URL."""
    url = "postgresql+psycopg://me:hunter2@127.0.0.1:1/understudy"

    done = process("list", UNDERSTUDY_CATALOG_URL=url)

    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("understudy: the catalog does not answer: ")
    assert "hunter2" not in done.stderr


@pytest.mark.parametrize(
    "url", ["no url at all hunter2", "nosuch://me:hunter2@host/db", "nosuch+x://me:hunter2@host/db"]
)
def test_a_url_of_no_catalog_is_one_line_without_its_password(url: str):
    """It names the variable to correct."""
    done = process("list", UNDERSTUDY_CATALOG_URL=url)

    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert "UNDERSTUDY_CATALOG_URL" in done.stderr
    assert "hunter2" not in done.stderr


def test_an_unknown_scope_is_wrong_words(tmp_path: Path):
    """Exit code 2, with the scopes that there are."""
    done = process("create", "--name", "x", "--scope", "everything", "--data", tmp_path)

    assert done.returncode == 2
    assert "'classify', 'ingest', 'admin'" in " ".join(done.stderr.replace("│", " ").split())
