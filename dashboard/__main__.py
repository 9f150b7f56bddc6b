"""``python -m dashboard``: show the pages until told to stop."""

import signal
import sys

import uvicorn

from dashboard.app import create_app
from understudy import settings, telemetry
from understudy.errors import SettingsRefused
from understudy.settings import DashboardSettings

#: Open pages are told to reconnect; nothing of theirs is lost, so their end is not waited for.
GRACE_S = 2


def main() -> int:
    """Read the settings, open the port, show the pages; gives the exit status."""
    try:
        chosen = settings.read(DashboardSettings)
    except SettingsRefused as refused:
        print(refused, file=sys.stderr)
        return 2
    telemetry.configure_logging(chosen.log_format)
    pages = create_app(chosen)
    # uvicorn ends on these, and then raises them again: an end as asked is exit code 0.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    uvicorn.run(
        pages,
        host=chosen.host,
        port=chosen.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
