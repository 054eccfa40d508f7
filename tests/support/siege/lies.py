"""The messages of the liar: one method per lie, called again and again at the rate in `Lies.all`."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from itertools import count

from kattila_agent.outbound.http.clients import RELAY
from kattila_protocol.names import MAX_COUNTER
from kattila_protocol.report import Spool
from kattila_protocol.signing import Key
from support.manager import REGISTER, UPDATES, Reply, now_ms
from support.raw_http import JSON, request
from support.reports import FOREIGN_KEY, Node, relayed, report
from support.siege import forge
from support.siege.forge import MAX_INTEGER, MEGABYTE, NASTY, Numbers
from support.siege.wire import SECOND_SOURCE, Address, Wire, speak

_INTERFACE = '{"index":1,"name":"a","kind":null,"flags":[],"operstate":"UP","mtu":1,"address":null,"addresses":[]}'
_NEIGHBOUR = '["",null,"",""]'
_FOREIGN_HOSTS = ("[::1].evil.example", "localhost.evil.example", "127.0.0.1.evil.example", "[::1]evil.example", "")
_RAW = (
    b"GET /status/agents HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    b"GET /status/agents HTTP/1.1\nHost: localhost\n\n",
    b"GET /..%2fkattila_ring.json HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /.versions%2f..%2f..%2fkattila_ring.json HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /status/healthcheck HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 500_000 + b"\r\n\r\n",
    b"POST /status/updates HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 30\r\n\r\n{}",
)

_JUNK = (
    b"GET /status/peer?agent_id=x HTTP/1.1\r\nHost: localhost\r\n\r\n",
    b"GET /status/healthcheck HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 500_000 + b"\r\n\r\n",
    request("POST", RELAY, b"x" * 1_000_000, JSON),
    b"GET /status/healthcheck HTTP/1.1\nHost: localhost\n\n",
)
_KEPT = {"Connection": "keep-alive"}

# The liar's own ids, beside those that it makes up.
_OWN_IDS = 6

Lie = Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Target:
    """The manager, the addresses and ids of some agents, the key, and other honest agents.

    The liar takes the numbers of those in `numbered`, and the ids of those in `claimed`.
    """

    manager: Address
    agents: tuple[tuple[Address, str], ...]
    key: Key
    numbered: tuple[Node, ...]
    claimed: tuple[Node, ...]


class Lies:
    """All lies; `sent` counts them, `answers` counts the answers by lie and outcome, `leaks` has what must not show."""

    def __init__(self, target: Target) -> None:
        self._target, self._key = target, target.key
        self._wire = Wire(target.manager, 12)
        self._agents = [Wire(address, 2, SECOND_SOURCE) for address, _ in target.agents]
        self._turn: dict[str, count[int]] = {}
        self.sent: Counter[str] = Counter()
        self.answers: Counter[str] = Counter()
        self.leaks: list[str] = []
        self._big_lists = [
            forge.with_list("interfaces", _INTERFACE, 10_200),
            forge.with_list("neighbours", _NEIGHBOUR, 10_000),
            forge.with_list("neighbours", _NEIGHBOUR, 65_000),
        ]

    def all(self) -> dict[Lie, float]:
        """Return each lie with how often it is sent in a second: thousands of new ids and boots in two minutes.

        The rates leave processor time to the victims, which are on the same machine in a test.
        """
        return {
            self.numbers_of_a_victim: 5,
            self.reboot_of_a_victim: 1,
            self.clone_of_a_victim: 3,
            self.counters: 4,
            self.long_names: 1,
            self.long_names_of_relays: 0.5,
            self.long_lists: 1.5,
            self.new_ids: 50,
            self.new_boots: 30,
            self.registrations: 5,
            self.clocks: 5,
            self.replays: 5,
            self.signatures: 10,
            self.foreign_hosts: 5,
            self.raw_requests: 3,
            self.new_ids_through_a_relay: 5,
            self.peer_queries: 15,
            self.junk_for_agents: 3,
        }

    async def prepare(self) -> None:
        """Report once under each id that later lies use, before the flood of new ids."""
        for number in range(_OWN_IDS):
            sender = forge.own_node(number)
            await self._wire.post(UPDATES, forge.report(sender, Numbers(1, 1), forge.content_of(sender), self._key))

    async def numbers_of_a_victim(self) -> None:
        """Take the greatest numbers, and numbers a little above the victim's own."""
        turn = self._next("numbers")
        victims = self._target.numbered
        victim, content = victims[turn % len(victims)], forge.content_of(victims[turn % len(victims)])
        known = forge.claimed(await self._report("numbers", victim, Numbers(1, 1), content))
        tick, sample = known.get("highest_tick", 1), known.get("highest_sample", 1)
        forms = (
            Numbers(MAX_COUNTER, MAX_COUNTER),
            Numbers(MAX_COUNTER, tick + 1),
            Numbers(sample + 1, MAX_COUNTER),
            Numbers(sample + 1000, tick + 1000),
            # Taken before the victim measures them. The ticks leave room for those of the victim.
            Numbers(sample + 1, tick + 2),
            Numbers(sample + 10, tick + 11),
            Numbers(MAX_COUNTER - 1, tick + 1),
        )
        await self._report("numbers", victim, forms[turn // len(victims) % len(forms)], content)

    async def reboot_of_a_victim(self) -> None:
        """Claim that a victim has rebooted."""
        victim = self._victim("reboots")
        rebooted = replace(victim, boot_id=str(uuid.uuid4()))
        await self._above("reboots", rebooted, forge.content_of(rebooted, hostname=NASTY))

    async def clone_of_a_victim(self) -> None:
        """Claim a victim's id for another machine, with a name that must not be shown as it is."""
        turn = self._next("clones")
        clone = self._victim("clones").cloned(turn)
        name = NASTY if turn % 3 else NASTY + "x" * 300_000
        await self._above("clones", clone, forge.content_of(clone, hostname=name))

    async def counters(self) -> None:
        """Report the greatest integer, and then either small numbers or the greatest one again and again."""
        turn = self._next("counters")
        step, sender = turn // 2, forge.own_node(turn % 2)
        # Long enough at first for the publisher to read it.
        dropped = MAX_INTEGER if step < 6 or (turn % 2 and step % 2 == 0) else step
        content = forge.content_of(sender, spool=Spool(dropped, dropped, dropped, dropped))
        await self._report("counters", sender, self._numbers(sender), content)

    async def long_names(self) -> None:
        """Report host names of a megabyte."""
        sender = forge.own_node(0)
        content = forge.content_of(sender, hostname="x" * MEGABYTE)
        await self._report("long names", sender, self._numbers(sender), content)

    async def long_names_of_relays(self) -> None:
        """Let relays with names of a megabyte, or with names that must not be shown as they are, forward a report."""
        name = NASTY if self._next("relays") % 2 else "x" * MEGABYTE
        relays, sender = [forge.own_node(number) for number in (2, 3, 4)], forge.own_node(0)
        for relay in relays:
            await self._report("relays", relay, self._numbers(relay), forge.content_of(relay, hostname=name))
        body = relayed(report(sender, self._numbers(sender).sample, now_ms()), *relays, key=self._key)
        self._note("relays", await self._wire.post(UPDATES, body))

    async def long_lists(self) -> None:
        """Report lists with thousands of entries."""
        sender, content = forge.own_node(0), self._big_lists[self._next("long lists") % 3]
        await self._report("long lists", sender, self._numbers(sender), content)

    async def new_ids(self) -> None:
        """Report under a new id."""
        sender = forge.stranger()
        await self._report("new ids", sender, Numbers(1, 1), forge.content_of(sender, hostname=NASTY))

    async def new_boots(self) -> None:
        """Report under one id from ever new boots."""
        sender = replace(forge.own_node(5), boot_id=str(uuid.uuid4()))
        await self._report("new boots", sender, self._numbers(sender), forge.content_of(sender))

    async def registrations(self) -> None:
        """Register new ids, and ids of victims, under names that must not be shown as they are."""
        turn = self._next("registrations")
        sender = self._victim("registrations").cloned(turn) if turn % 2 else forge.stranger()
        name = "x" * 250_000 if turn % 5 == 0 else NASTY
        body = forge.registration(sender, self._key, hostname=name)
        self._note("registrations", await self._wire.post(REGISTER, body))

    async def clocks(self) -> None:
        """Sign with clocks that are off, and claim measurements of 1970 and of the far future."""
        turn, sender = self._next("clocks"), forge.own_node(1)
        skew, age = ((700_000, 0), (-700_000, 0), (0, MAX_COUNTER), (0, -MAX_COUNTER))[turn % 4]
        content, numbers = forge.content_of(sender), self._numbers(sender)
        body = forge.report(sender, numbers, content, self._key, skew_ms=skew, age_ms=age)
        self._note("clocks", await self._wire.post(UPDATES, body))

    async def replays(self) -> None:
        """Use a tick again with another nonce."""
        sender = forge.own_node(0)
        await self._report("replays", sender, Numbers(1, 1), forge.content_of(sender))

    async def signatures(self) -> None:
        """Sign with a key of somebody else, in the name of a victim."""
        victim = self._victim("signatures")
        body = forge.report(victim, Numbers(1, 1), forge.content_of(victim), FOREIGN_KEY)
        self._note("signatures", await self._wire.post(UPDATES, body))

    async def foreign_hosts(self) -> None:
        """Read the lists as a page of another site would, through a browser on this machine."""
        host = _FOREIGN_HOSTS[self._next("hosts") % len(_FOREIGN_HOSTS)]
        received = await speak(self._target.manager, request("GET", "/status/agents", b"", {"Host": host}))
        self._check("hosts", f"Host: {host}", received)

    async def raw_requests(self) -> None:
        """Send requests that parsers read in different ways."""
        sent = _RAW[self._next("raw") % len(_RAW)]
        self._check("raw", repr(sent[:90]), await speak(self._target.manager, sent))

    async def new_ids_through_a_relay(self) -> None:
        """Let an honest agent relay reports under new ids."""
        number, (_, relay_id) = self._agent("relayed ids")
        sender = forge.stranger()
        body = forge.report_to(relay_id, sender, forge.content_of(sender, hostname=NASTY), self._key)
        self._note("relayed ids", await self._agents[number].post(RELAY, body))

    async def peer_queries(self) -> None:
        """Query an agent with new nonces, all of which it has to remember."""
        number, (address, _) = self._agent("peer queries")
        sent = request("GET", forge.peer_query(forge.stranger(), address[0], self._key), b"", _KEPT)
        self._note("peer queries", await self._agents[number].send(sent))

    async def junk_for_agents(self) -> None:
        """Send an agent requests that it has to refuse."""
        turn = self._next("junk")
        _, (address, _) = self._agent("junk for agents")
        self._check("junk for agents", "junk", await speak(address, _JUNK[turn % len(_JUNK)], SECOND_SOURCE))

    def _check(self, name: str, what: str, received: bytes) -> None:
        self.sent[name] += 1
        self.answers[f"{name} {received[9:12].decode('latin-1')}"] += 1
        if b'"agents":' in received or b'"psk"' in received:
            self.leaks.append(what)

    async def _above(self, name: str, sender: Node, content: bytes) -> None:
        """Report under numbers just above those of the sender's id."""
        known = forge.claimed(await self._report(name, sender, Numbers(1, 1), content))
        numbers = Numbers(known.get("highest_sample", 0) + 1, known.get("highest_tick", 0) + 1)
        await self._report(name, sender, numbers, content)

    async def _report(self, name: str, sender: Node, numbers: Numbers, content: bytes) -> bytes:
        reply = await self._wire.post(UPDATES, forge.report(sender, numbers, content, self._key))
        self._note(name, reply)
        return b"" if reply is None else reply.body

    def _note(self, name: str, reply: Reply | None) -> None:
        self.sent[name] += 1
        outcome = "" if reply is None else forge.claimed(reply.body).get("outcome", "unsigned")
        self.answers[f"{name} {reply.status if reply else 'unanswered'} {outcome}".strip()] += 1

    def _numbers(self, sender: Node) -> Numbers:
        """Return the next numbers of one of the liar's ids; `prepare` used the first ones."""
        number = self._next(f"numbers of {sender.agent_id}") + 2
        return Numbers(number, number)

    def _next(self, name: str) -> int:
        return next(self._turn.setdefault(name, count()))

    def _agent(self, name: str) -> tuple[int, tuple[Address, str]]:
        number = self._next(f"agent of {name}") % len(self._target.agents)
        return number, self._target.agents[number]

    def _victim(self, name: str) -> Node:
        return self._target.claimed[self._next(f"victim of {name}") % len(self._target.claimed)]


def occupations() -> dict[str, bytes]:
    """Return what connections send that only occupy the manager."""
    body = request("POST", UPDATES, b"", JSON | {"Content-Length": "3000"}) + b'{"data":{'
    return {
        "slow bodies": body,
        "slow heads": b"POST /status/updates HTTP/1.1\r\nHost: localhost\r\nX-",
        "idle connections": b"",
    }
