"""``python -m dashboard`` as a process."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import pytest

from understudy.testing import free_port


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_end_as_asked_is_exit_code_0(number: signal.Signals, until: Callable[..., None]):
    """As of every other program of the system: whoever watches containers need not know better."""
    port = free_port()
    environment = os.environ | {"UNDERSTUDY_PORT": str(port)}
    with subprocess.Popen([sys.executable, "-m", "dashboard"], env=environment) as process:
        try:

            def answers() -> bool:
                with socket.socket() as client:
                    return client.connect_ex(("127.0.0.1", port)) == 0

            until(lambda: answers() or process.poll() is not None)
            process.send_signal(number)
            assert process.wait(30) == 0
        finally:
            process.kill()
