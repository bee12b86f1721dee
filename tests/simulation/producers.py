"""Producers as the contract has them: numbered events, held until the stored mark they read covers them."""

from __future__ import annotations

from random import Random

import redis

from dspy_ledger.keys import Keys
from projector.ledgers import Fields, evaluation, event, execution, registration
from simulation.broker import Client, Server

SHARED_IDS = ("x1", "x2", "x3")
"""Execution ids that somebody else's producers give, each to several executions."""

_PROGRAMS = ("p", "q", "日本", "../x")
_WORDS = (None, "", "one", "zwei")
_TIMES = ("2026-11-22T12:00:00.000000Z", "2026-11-21T23:59:59.999999Z", "2026-11-23T01:00:00+02:00")
_INTERFACES = (
    None,
    {"inputs": [{"name": "q", "type": "str", "required": True}], "outputs": []},
    {"inputs": [{"name": n, "type": "str", "required": True} for n in "qr"], "outputs": []},
    {"inputs": 1},
)


class Producer:
    """One replica with its write-ahead file, which outlives it: another process of the host adopts it.

    Args:
        name: its source is ``/producers/host/<name>``.
        server: the broker.
        keys: the ledger's keys.
        dice: decides what is recorded.
    """

    def __init__(self, name: str, server: Server, keys: Keys, dice: Random) -> None:
        self.name = name
        self.source = f"/producers/host/{name}"
        self._server, self._keys, self._dice = server, keys, dice
        self._client = Client(server, name)
        self._identity = server.run_id
        self._sent = 0
        self.last = 0
        self.mark = 0
        self.events: dict[int, Fields] = {}
        """Everything that was ever recorded, by number, as it was sent."""
        self.held: set[int] = set()
        """What the write-ahead file still has."""
        self.given_up: set[int] = set()
        """What was dropped over the cap, or lost with the host's disk."""
        self.ids: list[str] = []
        self._written_off: dict[str, list[list[int]]] = {"dropped": [], "unconfirmed": []}
        self.gone = False

    def record(self, count: int, others: list[str]) -> None:
        """Record events; ``others`` are ids that a conflicting one may claim."""
        for _ in range(0 if self.gone else count):
            self.last += 1
            self.events[self.last] = self._any_event(self.last, others)
            self.held.add(self.last)

    def send(self, most: int) -> None:
        """Send what is held and was not sent to this server, oldest first."""
        if self._server.run_id != self._identity:
            self._identity, self._sent = self._server.run_id, self.mark
        for number in [n for n in sorted(self.held) if n > self._sent][:most]:
            try:
                self._client.xadd(self._keys.events, self.events[number])
            except redis.RedisError:
                self._sent = self.mark  # what was acknowledged may be lost too: all of it again
                return
            self._sent = number

    def restart(self) -> None:
        """Another process adopts the write-ahead file, and sends all that it holds."""
        self._sent = self.mark

    def read_mark(self) -> None:
        """Forget what is stored, as the mark says."""
        try:
            mark = int(self._client.hget(self._keys.stored, self.source) or 0)
        except redis.RedisError:
            return
        self.mark = max(self.mark, mark)
        self.held = {number for number in self.held if number > self.mark}

    def drop(self, count: int, how: str) -> None:
        """Give up the newest of what is held (over the cap), and report it."""
        dropped = sorted(self.held)[-count:]
        if not dropped:
            return
        self.held.difference_update(dropped)
        self.given_up.update(dropped)
        self.last += 1
        self._written_off[how] += [[n, n] for n in dropped]
        report = {"first": 1, "last": self.last, **self._written_off, "reason": "interval"}
        self.events[self.last] = event(
            "ProducerReported", report, self._id(self.last), self.last, source=self.source
        )
        self.held.add(self.last)

    def lose_some(self, count: int) -> None:
        """Some of the write-ahead file can't be read any more; nobody can say which numbers those were."""
        at = self._dice.randrange(self.last + 1)
        lost = [number for number in sorted(self.held) if number >= at][:count]
        self.given_up.update(lost)
        self.held.difference_update(lost)

    def lose(self) -> None:
        """The host is gone with its disk."""
        self.given_up |= self.held
        self.held.clear()
        self.gone = True

    def _id(self, number: int) -> str:
        self.ids.append(f"{self.name}-{number}")
        return self.ids[-1]

    def _any_event(self, n: int, others: list[str]) -> Fields:
        dice = self._dice
        program, content = dice.choice(_PROGRAMS), f"c1:{dice.randrange(4)}"
        event_id = self._id(n)
        kind = dice.choice("rrxxxxxefgc")
        if kind == "c" and others:
            event_id, kind = dice.choice(others), "x"
        if kind == "r":
            made = registration(
                event_id, n, program=program, content=content,
                version=dice.choice(("1.0.0", "1.0.1", "1.1.0", "2.0.0-rc.1", "no semver", "../1")),
                description=dice.choice(_WORDS), tags=dice.sample("ab", dice.randrange(3)),
                interface=dice.choice(_INTERFACES), parent_id=dice.choice((None, "p", "q")),
                body=dice.choice((None, {"n": n})),
            )  # fmt: skip
        elif kind == "e":
            made = evaluation(
                event_id, n, program=program, content=content, evaluation_id=dice.choice(("a", "b_c")),
                model_id=dice.choice((None, "m", "c_m")), results=n,
            )  # fmt: skip
        elif kind == "f":
            coming = f"{self.name}-{n + dice.randrange(1, 20)}"
            about = dice.choice((*self.ids, *SHARED_IDS, coming))
            made = evaluation(event_id, n, program=None, content=None, model_id=None, execution_id=about)
        else:
            made = execution(
                event_id, n, program=program, content=dice.choice((content, None)), time=dice.choice(_TIMES),
                cost_usd=dice.choice((None, 0.1, 0.2, 1e-9)), model_id=dice.choice((None, "m", "n")),
                usage=dice.choice(({}, {"input_tokens": n, "output_tokens": 2.5})),
                latency_ms=dice.choice((0.1, 0.7, n)), status=dice.choice(("ok", "error")),
                body=dice.choice((None, {"inputs": {"q": "x" * dice.randrange(2000)}, "calls": []}, [n])),
                session_id=dice.choice((None,) * 60 + ("fold", "execution_line")),
                execution_id=dice.choice((event_id,) * 4 + SHARED_IDS),
            )  # fmt: skip
        data = made[b"__data__"].replace(b'"/producers/host/a"', b'"%s"' % self.source.encode())
        if kind == "g":
            data = data.replace(b'"status":', b'"state":')
        return made | {b"__data__": data}
