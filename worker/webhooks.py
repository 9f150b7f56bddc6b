"""Delivers what waits in the outbox: a thread that looks each second, and one for each webhook that is being told.

At least once: who is killed between the answer and its entry in the catalog leaves it to be sent again, under the
same id. A webhook that is slow holds up itself only. What is told, and to whom, is in the catalog.
"""

import logging
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from understudy import addresses
from understudy.addresses import Allowance
from understudy.catalog import Catalog, claims, webhooks
from understudy.catalog.tables import DeliveryRow
from understudy.catalog.webhooks import FIRST_PAUSE_S, LONGEST_PAUSE_S, MAX_ATTEMPTS, Sending
from understudy.errors import LeaseLost, SourceAway, SourceRefused
from understudy.records import DeliveryAttempt, JobState
from understudy.webhooks import sign
from worker.fetching import Fetcher

log = logging.getLogger(__name__)

#: How often the outbox is looked into.
POLL_S = 1.0
#: How often it is looked for what dead deliverers held, and for what is old.
TIDY_S = 15.0
#: A receiver has so long for everything: connecting, reading, answering.
TIMEOUT_S = 10.0
#: Webhooks that are told at the same time.
MAX_AT_ONCE = 8
#: What is kept of an answer.
ANSWER_CHARS = 500
#: How long a stop waits for requests on their way; what is cut off is sent again.
STOP_S = 3.0


@contextmanager
def delivering(catalog: Catalog, fetcher: Fetcher, allowed: Allowance) -> Iterator[None]:
    """Deliver for as long as the block runs, beside it."""
    stopped = threading.Event()
    courier = Courier(catalog, fetcher, allowed, stopped)
    thread = threading.Thread(target=courier.run, name="webhooks", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()
        courier.join(STOP_S)


class Courier:
    """Finds what is due, and delivers it in a thread for each webhook."""

    def __init__(self, catalog: Catalog, fetcher: Fetcher, allowed: Allowance, stopped: threading.Event) -> None:
        self._catalog, self._fetcher, self._allowed, self._stopped = catalog, fetcher, allowed, stopped
        self._telling: dict[str, threading.Thread] = {}
        self._tidy_at = 0.0
        self._is_away = False

    def run(self) -> None:
        """Until it is stopped."""
        while not self._stopped.is_set():
            try:
                self.look()
                self._is_away = False
            except Exception:  # the catalog is away: what is in the outbox stays there
                if not self._is_away:  # told once, not each second
                    log.exception("could not look for what webhooks are to be told; it is tried each %s s", POLL_S)
                self._is_away = True
            self._stopped.wait(POLL_S)

    def look(self) -> None:
        """Begin to tell those that are due and not being told."""
        if time.monotonic() >= self._tidy_at:
            self._tidy_at = time.monotonic() + TIDY_S
            tidy(self._catalog)
        self._telling = {id: thread for id, thread in self._telling.items() if thread.is_alive()}
        for webhook_id in webhooks.due(self._catalog):
            if len(self._telling) < MAX_AT_ONCE and webhook_id not in self._telling:
                thread = threading.Thread(target=self._tell, args=(webhook_id,), name="webhook", daemon=True)
                self._telling[webhook_id] = thread
                thread.start()

    def join(self, timeout_s: float) -> None:
        """Wait for what is on its way."""
        deadline = time.monotonic() + timeout_s
        for thread in self._telling.values():
            thread.join(max(0.0, deadline - time.monotonic()))

    def _tell(self, webhook_id: str) -> None:
        try:
            while not self._stopped.is_set() and deliver(self._catalog, self._fetcher, self._allowed, webhook_id):
                pass
        except LeaseLost as lost:
            log.warning("%s", lost)
        except Exception:
            log.exception("webhook %s could not be told; it is tried again", webhook_id)


def tidy(catalog: Catalog) -> None:
    """Free what dead deliverers of this machine held, give up what killed them too often, forget what is old."""
    claims.release_dead(catalog, DeliveryRow)
    for delivery in claims.set_aside(catalog, DeliveryRow, max_attempts=MAX_ATTEMPTS):
        log.error("delivery %s was set aside: its sender died too often", delivery)
    webhooks.sweep(catalog)


def deliver(catalog: Catalog, fetcher: Fetcher, allowed: Allowance, webhook_id: str) -> bool:
    """Send the oldest delivery that is due for a webhook, once. False: there is none."""
    sending = webhooks.take(catalog, webhook_id)
    if sending is None:
        return False
    attempt = _attempt(sending, fetcher, allowed)
    state = webhooks.answered(catalog, sending.claim, attempt, pause_s=pause_s(sending.claim.num_spent))
    if attempt.problem is not None:  # neither the URL nor the body: both may hold what is not for logs
        left = "given up" if state == JobState.FAILED else "tried again later"
        log.warning("webhook %s, delivery %s: %s; %s", webhook_id, sending.claim.id, attempt.problem, left)
    return True


def pause_s(num_attempts: int) -> float:
    """How long to wait after so many attempts: fourfold each time, and a quarter more or less by chance."""
    return min(FIRST_PAUSE_S * 4.0 ** (num_attempts - 1) * random.uniform(0.75, 1.25), LONGEST_PAUSE_S)


def _attempt(sending: Sending, fetcher: Fetcher, allowed: Allowance) -> DeliveryAttempt:
    at, began = time.time(), time.monotonic()
    headers = {
        "content-type": "application/json",
        "user-agent": "understudy-webhooks",
        **sign(sending.secrets, sending.event_id, int(at), sending.body),
    }
    status, answer, problem = None, "", None
    try:
        reply = fetcher.post(addresses.hook(sending.url, allowed), sending.body, headers, timeout_s=TIMEOUT_S)
    except (SourceAway, SourceRefused) as error:
        problem = str(error)
    else:
        status, answer = reply.status, reply.beginning.decode("utf-8", "replace").replace("\x00", "\ufffd")
        if not 200 <= status < 300:
            problem = f"it answered {status}" + ("; redirects are not followed" if 300 <= status < 400 else "")
    ms = round(1000 * (time.monotonic() - began))
    return DeliveryAttempt(at=at, status=status, ms=ms, answer=answer[:ANSWER_CHARS], problem=problem)
