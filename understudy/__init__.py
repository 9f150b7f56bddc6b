"""Understudy: a self-improving image classifier that people run themselves.

The core package: what two programs must agree on. It imports none of ``service``, ``worker`` and
``trainer``, and neither torch nor FastAPI. ``from understudy import Client`` is the way in for other programs.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from understudy.client import Client, RequestFailed

__version__ = "0.1.0"
__all__ = ["Client", "RequestFailed"]


def __getattr__(name: str) -> Any:
    """The client when it is first asked for: it takes half a second to import, and most of our programs have none."""
    if name not in __all__:
        raise AttributeError(f"module 'understudy' has no attribute {name!r}")
    from understudy import client

    return getattr(client, name)
