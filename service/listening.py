"""The socket that the service listens on: bound once, and shared by all processes of one port.

A connection waits in it for whichever process takes it, so a process that dies takes none along that it had not
accepted. The first process that is ready makes it listen; until then, connections are refused. Nothing heavy is
imported here: the parent of several processes needs it too.
"""

import socket

from understudy.errors import SettingsRefused
from understudy.settings import ServiceSettings


def bind(settings: ServiceSettings) -> socket.socket:
    """A socket bound to host and port, or the one that the parent bound. Raises SettingsRefused if it is taken."""
    if settings.is_one_of_several:
        return socket.socket(fileno=settings.listen_fd)
    try:
        # The first address that the name has; asking for TCP by name lets the event loop switch off Nagle's delay.
        family, kind, protocol, _, address = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind(address)
        except OSError:
            bound.close()
            raise
    except OSError as error:
        raise SettingsRefused(
            f"cannot listen on UNDERSTUDY_HOST={settings.host} UNDERSTUDY_PORT={settings.port}: {error}; choose another"
        ) from error
    return bound


def address_of(bound: socket.socket) -> str:
    """As a URL, for the log."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
