"""Who looks: a browser's session, and the client that asks the service in its name.

A session is a random cookie and an API key held in memory, never on disk: after a restart people give their key
again. Where the service asks for no key there is one session for all.
"""

import asyncio
import secrets
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import TypeVar

from starlette.concurrency import run_in_threadpool

from dashboard.held import Held
from dashboard.traffic import Traffic
from understudy.client import Client, RequestFailed
from understudy.settings import DashboardSettings

T = TypeVar("T")

COOKIE = "understudy_session"
#: More people than this do not look at one system; the one who looked longest ago gives the key again.
MAX_SESSIONS = 1000
#: A page waits for the service this long before it says that nobody answers.
PATIENCE_S = 2.0


class System:
    """The service, asked in threads, so that no page waits for another's question."""

    def __init__(self, client: Client, held: Held | None = None, traffic: Traffic | None = None) -> None:
        self.client = client
        self.traffic = traffic or Traffic()  #: what the service counts, sampled for all who look
        self.held = held or Held()  #: images that somebody tries

    async def ask(self, question: Callable[[Client], T]) -> T:
        """Ask with the client, as in ``await system.ask(lambda client: client.job(id))``. Raises UnderstudyError."""
        return await run_in_threadpool(question, self.client)

    async def ask_all(self, *questions: Callable[[Client], object]) -> list[object]:
        """Several at once; their answers in the same order."""
        return list(await asyncio.gather(*(self.ask(question) for question in questions)))


class Sessions:
    """Every session of this process. Used from one event loop."""

    def __init__(self, settings: DashboardSettings) -> None:
        self._settings, self._held, self._traffic = settings, Held(), Traffic()
        self._open = self._system(None)
        self._systems: OrderedDict[str, System] = OrderedDict()

    def of(self, cookies: Mapping[str, str]) -> System:
        """The system as this browser may see it: with its key, or without any."""
        token = cookies.get(COOKIE, "")
        if token not in self._systems:
            return self._open
        self._systems.move_to_end(token)
        return self._systems[token]

    async def begin(self, key: str) -> str:
        """A new session with a key that the service takes; gives its cookie. Raises RequestFailed, SettingsRefused."""
        system = self._system(key)
        await system.ask(lambda client: client.champions())
        token = secrets.token_urlsafe(32)
        self._systems[token] = system
        if len(self._systems) > MAX_SESSIONS:
            self._systems.popitem(last=False)[1].client.close()
        return token

    def end(self, cookies: Mapping[str, str]) -> None:
        """Forget a session's key."""
        if system := self._systems.pop(cookies.get(COOKIE, ""), None):
            system.client.close()

    def _system(self, key: str | None) -> System:
        client = Client(self._settings.service_url, key=key, patience_s=PATIENCE_S)
        return System(client, self._held, self._traffic)


def needs_key(error: Exception) -> bool:
    """Whether a refusal says that the service wants a key, or another one."""
    return isinstance(error, RequestFailed) and error.status == 401
