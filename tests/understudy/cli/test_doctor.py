"""``understudy doctor`` as people and scripts run it."""

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from understudy.cli import commands


def test_it_says_a_line_a_check_and_what_to_do(tmp_path: Path):
    """Exit code 0 with warnings and without; 1 when a check failed; 2 for a check that there is not."""
    words = ["doctor", "--data", str(tmp_path / "data"), "--only", "database", "--only", "service"]
    well = CliRunner().invoke(commands.app, [*words, "--only", "python"])
    ill = CliRunner().invoke(commands.app, [*words, "--url", "http://127.0.0.1:1"])

    assert well.exit_code == 0
    assert [line.split()[:2] for line in well.stdout.splitlines()[:2]] == [["ok", "python"], ["ok", "database"]]
    assert well.stdout.splitlines()[-1] == "3 checks: 0 failed, 0 warnings"
    assert ill.exit_code == 1
    assert "failed   service        no answer from http://127.0.0.1:1" in ill.stdout
    assert "  → look at its log; --url names another" in ill.stdout
    assert CliRunner().invoke(commands.app, ["doctor", "--only", "stars"]).exit_code == 2


def test_as_json_it_is_one_document(tmp_path: Path):
    """Whether all is well, and every finding with the fields of its record."""
    words = ["doctor", "--data", str(tmp_path / "data"), "--only", "redis", "--only", "disk", "--json"]

    said = json.loads(CliRunner().invoke(commands.app, words).stdout)

    assert said["ok"] is True
    assert [check["name"] for check in said["checks"]] == ["disk", "redis"]
    assert set(said["checks"][0]) == {"name", "verdict", "seen", "advice", "seconds"}


def test_answers_go_to_standard_output_while_a_bar_is_on_the_terminal():
    """Where standard error is a terminal and standard output is a file, the file has every line."""
    screen, theirs = pty.openpty()
    command = [sys.executable, "-m", "understudy", "doctor", "--only", "python", "--only", "open files"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        printed, _ = process.communicate(timeout=60)
    os.close(screen)

    assert process.returncode == 0
    assert [line.split()[0] for line in printed.splitlines()] == ["ok", "ok", "2"]
