import subprocess
import sys


def test_the_words_are_passed_on_and_so_is_the_failure(tmp_path):
    """The trainer's command says in one line that there is no such data folder."""
    command = [sys.executable, "-m", "understudy", "robustness", "--data", str(tmp_path / "nowhere"), "--json"]

    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)

    assert done.returncode == 1
    assert "robustness: there is no data folder" in done.stderr
    assert done.stdout == ""
