"""``python -m service``: serve until told to stop, then finish what was accepted."""

import resource
import tempfile

import uvicorn

from service.app import create_app
from understudy import settings, telemetry
from understudy.settings import ServiceSettings

#: Requests that are being answered get this long after SIGTERM.
GRACE_S = 20


def main() -> None:
    """Read the settings, build the application, run it."""
    chosen = settings.read(ServiceSettings)
    telemetry.configure_logging(chosen.log_format)
    chosen.spool.mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(chosen.spool)  # multipart files wait there: /tmp is memory on many machines
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # each file of a multipart upload is an open one
    uvicorn.run(
        create_app(chosen),
        host=chosen.host,
        port=chosen.port,
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=GRACE_S,
        server_header=False,
    )


if __name__ == "__main__":
    main()
