"""Finish the replies of servers that died, where several share one PostgreSQL store.

Each server claims the replies that it makes; the database gives a claim back when its server is gone. Every
server looks for pending replies that nobody has claimed and makes them again from their records, which gives
the bytes that the first one would have sent. Replies that a terminal program asked for are left to it.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from datetime import UTC, datetime, timedelta
from http import HTTPStatus

import anyio

from engine import EngineClosed, EngineFull
from niels_gpt.conversation.errors import ChatError
from niels_gpt.server.errors import ApiError
from niels_gpt.server.plans import MAKER
from niels_gpt.server.replies import Replies
from niels_gpt.server.reply import Asked
from sessions import Generation, Store, StoreError, Turn
from sessions.claims import Claims

LOOK_SECONDS = 1.0
GRACE = timedelta(seconds=2)
"""Age from which a reply that nobody has claimed belongs to a server that is gone."""
_REMEMBERED = 10_000

logger = logging.getLogger(__name__)


class Takeover:
    """Claims the replies of this server, and finishes those of servers that died."""

    def __init__(self, store: Store, replies: Replies, claims: Claims) -> None:
        self._store, self._replies, self._claims = store, replies, claims
        self._given_up: OrderedDict[int, None] = OrderedDict()

    async def run(self) -> None:
        """Claim and look until cancelled."""
        while True:
            try:
                await self._look()
            except StoreError as error:
                logger.warning("cannot look for replies of other servers: %s", error)
            await anyio.sleep(LOOK_SECONDS)

    async def _look(self) -> None:
        call = self._replies.call
        pending = await call(self._store.pending_turns)
        mine = {turn.generation.id for turn in pending if self._replies.is_running(str(turn.generation.id))}
        await call(self._renew, mine)
        now = datetime.now(UTC)
        for turn in pending:
            generation = turn.generation
            is_servers = generation.environment.get("program") == MAKER
            if not is_servers or generation.id in mine or generation.id in self._given_up:
                continue
            if now - generation.created < GRACE or not await call(self._claims.take, generation.id):
                continue
            await self._finish(turn)

    def _renew(self, mine: set[int]) -> None:
        """Hold claims on exactly these replies."""
        for generation_id in self._claims.held - mine:
            self._claims.release(generation_id)
        for generation_id in mine:
            self._claims.take(generation_id)

    async def _finish(self, turn: Turn) -> None:
        reply_id = _reply_id(turn)
        try:
            await self._replies.find(reply_id)
        except (EngineFull, EngineClosed):
            await self._replies.call(self._claims.release, turn.generation.id)
        except (ApiError, ChatError) as error:
            if isinstance(error, ApiError) and error.status == HTTPStatus.NOT_FOUND:
                # Some of the response's choices were never stored, so no client has seen any of it.
                failed = self._store.fail_generation
                await self._replies.call(failed, turn.generation.id, error="its server died before it began")
            logger.warning("reply %s of another server is left: %s", reply_id, error)
            self._given_up[turn.generation.id] = None
            while len(self._given_up) > _REMEMBERED:
                self._given_up.popitem(last=False)
            await self._replies.call(self._claims.release, turn.generation.id)
        else:
            logger.info("reply %s of another server is finished here", reply_id)


def _reply_id(turn: Turn) -> str:
    """Return the id under which the whole response of a turn is found."""
    generation: Generation = turn.generation
    if Asked.of(generation).form == "native":
        return str(generation.id)
    return turn.session.name.partition(".")[0]
