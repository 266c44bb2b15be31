"""Who may connect, how often, and how fast they may ask.

Every limit is there so that no client, hostile or broken, can take the daemon from the others: connections
in all and per user, a time in which to say Hello, requests per second. Root keeps room of its own.
"""

from __future__ import annotations

import asyncio
import time
from typing import Final, NamedTuple

from whyidle_daemon.access import Access, Account, Budget, Scope
from whyidle_daemon.clients import Client
from whyidle_daemon.subordinates import Subordinates
from whyidle_wire.records import FailureCode

MAX_CLIENTS: Final = 64
MAX_UNPRIVILEGED: Final = 32
HELLO_S: Final = 10.0
MAX_USERS: Final = 1024


class _User(NamedTuple):
    """What somebody may spend, over all his connections and from one to the next."""

    budget: Budget
    account: Account


class Admission:
    """The connected clients."""

    def __init__(self, access: Access) -> None:
        self.access = access
        self._clients: set[Client] = set()
        self._ungreeted: dict[Client, asyncio.TimerHandle] = {}
        self._users: dict[int, _User] = {}  # whoever was heard last is the last
        self._subordinates = Subordinates()

    def __len__(self) -> int:
        return len(self._clients)

    @property
    def clients(self) -> list[Client]:
        return list(self._clients)

    def reload(self, access: Access) -> list[Client]:
        """Use other rules, also for those who are connected; returns who may not be here any more."""
        self.access = access
        self._users.clear()  # their rates are of the rules before
        for client in self._clients:
            client.scope = self._scope(client)
            client.budget = self._budget(client)
        return [client for client in self._clients if client.scope is Scope.NONE]

    def admit(self, client: Client) -> bool:
        """Let a new connection in, or tell it why not and close it."""
        client.user = self._subordinates.owner(client.peer.uid)
        client.scope = self._scope(client)
        client.budget = self._budget(client)
        refusal = self._refusal(client)
        self._clients.add(client)
        if refusal is not None:
            client.fail(0, *refusal)
            client.close()
            return False
        timer = asyncio.get_running_loop().call_later(HELLO_S, self._greeted_or_gone, client)
        self._ungreeted[client] = timer
        return True

    def greeted(self, client: Client) -> None:
        """It has said Hello."""
        client.greeted = True
        self._let_be(client)

    def leave(self, client: Client) -> None:
        self._clients.discard(client)
        self._let_be(client)

    def _let_be(self, client: Client) -> None:
        """Its time to greet is over: the timer would hold a client that has gone, and all that it had."""
        timer = self._ungreeted.pop(client, None)
        if timer is not None:
            timer.cancel()

    def spend(self, client: Client) -> bool:
        """One request; a client that asks too fast is told so and closed."""
        if client.budget is None or client.budget.take(asyncio.get_running_loop().time()):
            return True
        limit = self.access.config.requests_per_second
        client.fail(0, FailureCode.LIMIT, f"more than {limit} requests per second", "ask less often")
        client.close()
        return False

    def charge(self, client: Client, seconds: float) -> None:
        """The daemon's CPU time that a request took. Of a user with debts nothing is heard for a while."""
        if client.scope is Scope.ALL:
            return
        wait_s = self._user(client.user).account.charge(seconds, time.monotonic())
        if wait_s > 0:
            client.hold(wait_s)

    def _scope(self, client: Client) -> Scope:
        return self.access.scope(client.peer, named=client.user == client.peer.uid)

    def _budget(self, client: Client) -> Budget:
        """The user's, as his last connection has left it; whoever sees all has one for each connection."""
        if client.scope is Scope.ALL:
            return Budget(self.access.config.requests_per_second)
        return self._user(client.user).budget

    def _user(self, uid: int) -> _User:
        user = self._users.pop(uid, None) or _User(Budget(self.access.config.requests_per_second), Account())
        while len(self._users) >= MAX_USERS:
            del self._users[next(iter(self._users))]
        self._users[uid] = user
        return user

    def _refusal(self, client: Client) -> tuple[str, str, str] | None:
        if client.scope is Scope.NONE:
            hint = f"run as root, or join the group {self.access.config.group} and log in again"
            return FailureCode.PERMISSION, "this user may not use the daemon", hint
        same = sum(other.user == client.user for other in self._clients)
        if same >= self.access.config.connections_per_user:
            return FailureCode.LIMIT, f"{same} clients of this user are connected already", "close one first"
        unprivileged = sum(other.scope is not Scope.ALL for other in self._clients)
        if len(self._clients) >= MAX_CLIENTS or (
            client.scope is not Scope.ALL and unprivileged >= MAX_UNPRIVILEGED
        ):
            return FailureCode.LIMIT, f"{len(self._clients)} clients are connected already", "close one first"
        return None

    def _greeted_or_gone(self, client: Client) -> None:
        if client in self._clients and not client.greeted:
            client.fail(0, FailureCode.PROTOCOL, f"no Hello within {HELLO_S:g} s", "see whyidle schema")
            client.abort()
