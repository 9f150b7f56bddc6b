"""The command line: what it teaches, what it prints, and how it fails. A real service answers; nothing is trained."""

import inspect
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from typer.core import TyperCommand, TyperGroup
from typer.testing import CliRunner, Result

import understudy
from understudy import local
from understudy.catalog import Catalog
from understudy.cli import commands, following, reference
from understudy.client import RequestFailed
from understudy.errors import UnderstudyError
from understudy.records import Job, JobState
from understudy.store import Store, part_key, upload_key
from understudy.testing import picture

COMMANDS = typer.main.get_command(commands.app)
assert isinstance(COMMANDS, TyperGroup)

#: What prints no answer that a script could want, and why.
WITHOUT_JSON = {
    "up": "runs until it is stopped; its output is a log",
    "demo": "shows; --report writes what came out",
    "robustness": "passes its words on to the trainer's program, which has --json",
}


def walk(group: TyperGroup, *above: str) -> Iterator[tuple[str, TyperCommand]]:
    """Every command that does something, by its words: also a group that does without a subcommand."""
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            yield from walk(command, *above, name)
        if not isinstance(command, TyperGroup) or command.invoke_without_command:
            yield " ".join((*above, name)), command  # type: ignore[misc]


EVERY = dict(walk(COMMANDS))


def examples_of(command: TyperCommand) -> list[str]:
    """What its help says to type."""
    return [line for line in (command.epilog or "").split("\n\n") if line.startswith("understudy ")]


def options_of(command: TyperCommand) -> set[str]:
    return {option for parameter in command.params for option in parameter.opts}


def calls_the_service(command: TyperCommand) -> bool:
    """Whether it opens a client, as far as its own lines say."""
    return "Client(" in inspect.getsource(inspect.unwrap(command.callback))  # type: ignore[arg-type]


@pytest.fixture
def run(url: str) -> Callable[..., Result]:
    """Run a command within this process, against the running service."""

    def run(command: str, *words: object) -> Result:
        result = CliRunner().invoke(commands.app, [command, *map(str, words), "--url", url])
        assert result.exception is None, result.exception
        return result

    return run


@pytest.fixture
def away() -> Iterator[str]:
    """An address where nobody answers, and nobody can begin to."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{deaf.getsockname()[1]}"


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A green picture, under a path longer than a line of a terminal."""
    folder = tmp_path / ("a-rather-long-name-of-a-folder-" * 3)
    folder.mkdir()
    path = folder / "green [1].png"
    path.write_bytes(picture(1, 3))
    return path


def process(*words: object) -> subprocess.CompletedProcess[str]:
    """Run a command as people do."""
    command = [sys.executable, "-m", "understudy", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


# -- what it teaches ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_the_help_of_every_command_teaches(name: str):
    """What it does, and of every option and argument what it means, in the code and on the screen; and an example."""
    command = EVERY[name]
    assert command.help
    untaught = [p.name for p in command.params if not getattr(p, "help", None)]
    assert not untaught, f"say what these mean: {untaught}"
    examples = examples_of(command)
    assert examples, "give it `epilog=examples(...)` (understudy/cli/options.py)"
    assert all(example.startswith(f"understudy {name}") for example in examples)

    shown = CliRunner().invoke(commands.app, [*name.split(), "--help"], env={"TERM": "dumb"})

    assert shown.exit_code == 0
    assert command.help.split("\n")[0] in shown.stdout
    for parameter in command.params:
        assert str(getattr(parameter, "help", "")) in " ".join(shown.stdout.split())


@pytest.mark.parametrize("name", EVERY)
def test_every_command_can_be_scripted(name: str):
    """--json for its answer; and --url and --key, or the environment, where it asks the service."""
    options = options_of(EVERY[name])

    assert "--json" in options or name in WITHOUT_JSON, "print the record as JSON with --json (options.AsJson)"
    if calls_the_service(EVERY[name]):
        assert {"--url", "--key"} <= options, "take options.Url and options.Key"
    for option in (p for p in EVERY[name].params if p.name in ("url", "key")):
        assert option.envvar == f"UNDERSTUDY_{option.name.upper()}"  # type: ignore[union-attr]


#: Not those that name another service.
ASKING = [
    example
    for command in EVERY.values()
    if "--url" in options_of(command) and command.name != "doctor"
    for example in examples_of(command)
    if "--url" not in example
]


@pytest.mark.parametrize("example", ASKING)
def test_every_example_is_understood_and_told_at_once_that_nobody_answers(
    example: str, away: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The files that it names being there; the address comes from the environment. No example waits, none asks twice."""
    monkeypatch.chdir(tmp_path)
    words = shlex.split(example)[1:]
    for word in words:
        if word.endswith("/") and "://" not in word:
            (tmp_path / word).mkdir()
        elif re.search(r"[\w*]\.(jpg|zip|csv|json|onnx|xml|safetensors)$", word):
            (tmp_path / word).parent.mkdir(exist_ok=True)
            (tmp_path / word).write_bytes(picture(0, 3))
    began = time.monotonic()

    done = CliRunner().invoke(commands.app, words, env={"UNDERSTUDY_URL": away})

    assert isinstance(done.exception, RequestFailed), done.output
    assert done.exception.code == "not_connected"
    assert time.monotonic() - began < 5


def test_the_reference_is_of_these_commands():
    """docs/cli.md is what `make reference` would write now."""
    written = (Path(__file__).parents[3] / "docs" / "cli.md").read_text(encoding="utf-8")

    assert written == reference.text(), "run `make reference`"


def test_without_a_command_the_commands_are_shown():
    """All of them, and with which to start."""
    shown = CliRunner().invoke(commands.app, [], env={"TERM": "dumb"})

    assert set(COMMANDS.commands) >= {"up", "init", "ingest", "classify", "generate", "status", "demo"}
    assert all(name in shown.output for name in COMMANDS.commands)
    assert "Start with `understudy demo`" in shown.output


def test_what_is_heavy_is_imported_by_the_command_that_needs_it():
    """Every command, and every TAB, would wait a second longer for it otherwise."""
    heavy = {"sqlalchemy", "alembic", "onnxruntime", "celery", "numpy", "PIL", "duckdb"}
    code = "import sys; from understudy.cli import commands; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True).stdout

    assert not heavy & set(loaded.split()), "import these within the command: see understudy/cli/bench.py"


def test_the_version_is_told():
    """And nothing besides, for scripts."""
    done = process("--version")

    assert (done.returncode, done.stdout.strip(), done.stderr) == (0, understudy.__version__, "")


# -- what it prints -------------------------------------------------------------------------------


def test_classify_prints_label_probability_and_model_in_one_line(
    run: Callable[..., Result], serving: Callable[..., str], image: Path
):
    """One line an image, however long its path is."""
    version = serving()

    lines = run("classify", image, image).stdout.splitlines()

    assert len(lines) == 2
    shown = r"green [\d.]+%, (blue|red) [\d.]+%, (blue|red) [\d.]+%"
    assert all(re.fullmatch(rf"{re.escape(str(image))}: {shown}  \[{version}\]", line) for line in lines)


def test_classify_as_json_is_what_the_service_said(
    run: Callable[..., Result], serving: Callable[..., str], image: Path
):
    """With as many classes as asked for."""
    version = serving()

    answer = json.loads(run("classify", image, "--json", "--top-k", 1).stdout)

    assert answer["model"] == version
    assert [c["label"] for c in answer["predictions"][0]["classes"]] == ["green"]


def test_status_shows_what_serves_and_the_buckets(run: Callable[..., Result], serving: Callable[..., str], image: Path):
    """Before the first model, and with one; as JSON with the same keys every time."""
    assert run("status").stdout.startswith("serving nothing yet\n")

    version = serving()
    run("ingest", image, "--bucket", "holiday-photos", "--no-wait")

    assert run("status").stdout.startswith(f"serving {version}\n")
    assert "holiday-photos" in run("status").stdout
    status = json.loads(run("status", "--json").stdout)
    assert set(status) == {"ready", "loop", "buckets", "generations"}
    assert status["ready"]["model"] == version
    assert [b["name"] for b in status["buckets"]] == ["holiday-photos"]


def test_ingest_without_waiting_prints_the_job(
    run: Callable[..., Result], opened: tuple[Catalog, Store], tmp_path: Path
):
    """The zip has arrived as it is, and waits for a worker."""
    archive = tmp_path / "some.zip"
    with zipfile.ZipFile(archive, "w") as opened_archive:
        opened_archive.writestr("a.png", picture(0, 3))

    printed = run("ingest", archive, "--no-wait").stdout.split()

    assert printed[0] == "job"
    assert opened[1].get(part_key(upload_key(printed[1], 0), 0)) == archive.read_bytes()


def test_a_lines_program_and_its_text_are_printed_as_they_are(capsys: pytest.CaptureFixture[str]):
    """Square brackets are no markup, and a long line is one line."""
    commands._log_line("worker", "[bold]not bold[/bold] " + "x" * 200)

    assert capsys.readouterr().out == f"worker     [bold]not bold[/bold] {'x' * 200}\n"


# -- how it fails ---------------------------------------------------------------------------------


def test_an_unknown_command_is_wrong_words():
    """Exit code 2, and nothing on standard output."""
    done = process("improve")

    assert (done.returncode, done.stdout) == (2, "")
    assert "No such command 'improve'" in done.stderr


def test_a_folder_that_is_not_there_is_wrong_words(tmp_path: Path, away: str):
    """Noticed before anything is sent."""
    done = process("init", "--labeled", tmp_path / "missing", "--url", away)

    assert done.returncode == 2
    assert "does not exist" in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("command", ["status", "classify", "ingest", "init"])
def test_a_service_that_is_away_is_one_line_on_standard_error(command: str, away: str, image: Path):
    """Exit code 1, where nobody answered, what to do; no traceback."""
    words = {"classify": [image], "ingest": [image], "init": ["--labeled", image.parent]}.get(command, [])

    done = process(command, *words, "--url", away)

    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1, "a bar has nothing to do where no terminal is"
    assert done.stderr.startswith(f"understudy: no answer from {away} (")
    assert "`understudy up`" in done.stderr


def test_a_refused_image_is_one_line_with_the_reason(url: str, serving: Callable[..., str], tmp_path: Path):
    """What the service said of it."""
    serving()
    text = tmp_path / "text.png"
    text.write_text("no image")

    done = process("classify", text, "--url", url)

    assert (done.returncode, done.stdout) == (1, "")
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith("understudy: ")


def test_a_job_that_fails_is_an_error_with_its_reason(job_that_failed: Job):
    """As when an upload was no archive."""

    class Answering:
        """Stands where a client does: the job has ended."""

        def wait_for_job(self, job_id: str, on_progress: Callable[[Job], None]) -> Job:
            on_progress(job_that_failed)
            return job_that_failed

    with pytest.raises(UnderstudyError, match=r"job j1 failed: no archive \(not_an_archive\)"):
        following.follow(Answering(), job_that_failed, "unpacking")  # type: ignore[arg-type]


@pytest.fixture
def job_that_failed() -> Job:
    problem = {"code": "not_an_archive", "detail": "no archive"}
    return Job(id="j1", kind="ingest", state=JobState.FAILED, problem=problem, created_at=0, updated_at=0)  # type: ignore[arg-type]


def test_up_on_a_folder_that_is_in_use_is_refused_in_one_line(tmp_path: Path):
    """Exit code 1; the line names the process that runs on it."""
    with local._locked(tmp_path):
        done = process("up", "--data", tmp_path)

    assert done.returncode == 1
    assert done.stderr == (
        f"understudy: Understudy runs on {tmp_path} already (process {os.getpid()}); "
        f"stop it, or name another folder with --data\n"
    )


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path):
    """What the system says is no traceback either."""
    (tmp_path / "file").write_text("in the way")

    done = process("up", "--data", tmp_path / "file")

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "file") in done.stderr


def test_sigterm_is_as_ctrl_c():
    """What stops a stack in order on the one does so on the other."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        commands._stop_on_sigterm()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
