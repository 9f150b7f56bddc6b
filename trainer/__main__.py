"""``python -m trainer``: waits for a generation with empty hands, then is ``trainer.program`` until it is told to end.

Torch and its kin take ten seconds of a core and a gigabyte of memory, so they are loaded with the first generation.
"""

import logging
import signal
import sys
import threading
from contextlib import closing

from understudy import heartbeat, settings
from understudy.catalog import Catalog, generations
from understudy.errors import SettingsRefused
from understudy.settings import TrainerSettings
from understudy.telemetry import configure_logging

log = logging.getLogger("trainer")


def main() -> int:
    """Run until SIGTERM or SIGINT."""
    try:
        return run(settings.read(TrainerSettings))
    except SettingsRefused as error:
        print(f"trainer: {error}", file=sys.stderr)
        return 2


def run(read: TrainerSettings) -> int:
    """Wait for work, then load what does it."""
    configure_logging(read.log_format)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    with heartbeat.beating(read.heartbeat_file):
        if _is_needed_at_once(read) or _is_awaited(read, stopping):
            from trainer import program

            return program.run(read, stopping)
    return 0


def _is_needed_at_once(read: TrainerSettings) -> bool:
    """Whether torchrun has started several that meet, or something was asked for that may be missing here."""
    return settings.is_one_of_several() or read.device not in ("auto", "cpu") or bool(read.mlflow_url)


def _is_awaited(read: TrainerSettings, stopping: threading.Event) -> bool:
    """Wait until there is a generation to work on, without taking it. False: told to end before."""
    with closing(Catalog(read.catalog_url)) as catalog:
        catalog.migrate()
        log.info("ready")
        while not stopping.is_set():
            if generations.claimable(catalog) is not None:
                log.info("loading")
                return True
            stopping.wait(read.poll_s)
    log.info("ended")
    return False


if __name__ == "__main__":
    sys.exit(main())
