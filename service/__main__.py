"""``python -m service``: serve until told to stop, then finish what was accepted."""

import os
import sys

from service.listening import bind
from understudy import settings, telemetry
from understudy.errors import SettingsRefused
from understudy.settings import ServiceSettings


def main() -> int:
    """Read the settings, open the port, serve: in this process, or in several; gives the exit status."""
    try:
        chosen = settings.read(ServiceSettings)
        telemetry.configure_logging(chosen.log_format, **({"process": os.getpid()} if chosen.processes > 1 else {}))
        bound = bind(chosen)
        if chosen.processes > 1 and not chosen.is_one_of_several:
            from service import processes  # not the other: the parent needs none of what it loads

            processes.run(chosen, bound)
        else:
            from service import server

            server.run(chosen, bound)
    except SettingsRefused as refused:
        print(refused, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
