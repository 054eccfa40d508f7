"""`check`: is everything the manager stands on in order?

May live here: the checks, in the order in which they build on each other. Each says what it looked at, and what is
wrong.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from kattila_keys.dns import DnsError
from kattila_keys.ring_file import RingFile, RingFileError
from kattila_manager import compose, wording
from kattila_manager.commands.errors import Say
from kattila_manager.config import Config
from kattila_manager.records import Record
from kattila_manager.store import auditing
from kattila_manager.store.auditing import Audit, Audited
from kattila_manager.store.database import DatabaseUnusableError
from kattila_manager.store.store import Store, open_existing
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose, fingerprint
from kattila_protocol.txt import TxtError, select_psk
from kattila_settings.reading import ConfigError

_MOST_SHOWN = 10
# Some seconds of work.
_PROGRESS_REPORTS = 20_000


@dataclass(slots=True)
class Found:
    """What one check found: `looked_at` in words, and every problem."""

    looked_at: str
    problems: list[str] = field(default_factory=list)


def check(config: Config, say: Say, progress: Say) -> int:
    """Run all checks; 1 if something is wrong. `progress` gets a line now and then while reports are read."""
    ring, ring_found = _ring(config)
    is_well = True
    for name, found in (
        ("settings", Found(f"database {config.database}, pages {config.pages_dir}")),
        ("DNS", _dns(config, ring)),
        ("key ring", ring_found),
        *_database(config, ring, progress),
    ):
        is_well &= not found.problems
        _show(name, found, say)
    return 0 if is_well else 1


def _show(name: str, found: Found, say: Say) -> None:
    say(f"{'WRONG' if found.problems else 'ok':5}  {name}: {found.looked_at}")
    for problem in found.problems[:_MOST_SHOWN]:
        say(f"       - {problem}")
    if len(found.problems) > _MOST_SHOWN:
        say(f"       - and {len(found.problems) - _MOST_SHOWN:,} more")


def _ring(config: Config) -> tuple[Ring, Found]:
    try:
        ring = RingFile(config.ring_file).read().ring
    except RingFileError as error:
        return Ring(), Found(str(config.ring_file), [str(error)])
    if not ring.entries:
        return ring, Found(str(config.ring_file), ["it holds no key: run 'kattila-manager refresh-key'"])
    names = ", then ".join(entry.key.fingerprint for entry in ring.entries)
    return ring, Found(f"{config.ring_file} holds {names}")


def _dns(config: Config, ring: Ring) -> Found:
    try:
        current = fingerprint(select_psk(compose.make_ask(config)()))
    except (ConfigError, DnsError, TxtError) as error:
        return Found(config.dns or "not set", [str(error)])
    is_news = not ring.entries or current != ring.entries[0].key.fingerprint
    note = "; the ring's current key is another one, 'kattila-manager refresh-key' takes it at once" if is_news else ""
    return Found(f"{config.dns} holds the key {current}{note}")


def _database(config: Config, ring: Ring, progress: Say) -> Iterator[tuple[str, Found]]:
    try:
        store = open_existing(config.database)
    except DatabaseUnusableError as error:
        yield "database", Found(str(config.database), [str(error)])
        return
    with closing(store):
        yield "database", Found(f"integrity of {config.database}", store.read(auditing.integrity))
        yield "reports", _reports(store, ring, progress)


def _reports(store: Store, ring: Ring, progress: Say) -> Found:
    total = store.read(auditing.report_count)
    keys = {entry.key.fingerprint: entry.key for entry in ring.entries}
    read, verified, problems = 0, 0, []
    for audited in _all(store):
        read += 1
        problem, is_verified = _judge(audited, keys)
        verified += is_verified
        if problem:
            problems.append(f"report {audited.report_id} {problem}")
        if read % _PROGRESS_REPORTS == 0:
            progress(f"{read:,} of {total:,} reports read")
    rest = read - verified - len(problems)
    old = f", {rest:,} signed with a key that is no longer in the ring" if rest else ""
    return Found(f"{wording.plural(read, 'report')} read, {verified:,} MACs verified{old}", problems)


def _all(store: Store) -> Iterator[Audited]:
    audit = Audit()
    while found := store.read(audit.next_slice):
        yield from found


def _judge(audited: Audited, keys: dict[str, Key]) -> tuple[str, bool]:
    """Return what is wrong with a report, if anything, and whether its MAC was verified."""
    if audited.record is None:
        return audited.problem, False
    key = keys.get(audited.record.fingerprint)
    if key is None:
        return "", False
    if not _is_signed(audited.record, key):
        return f"of {audited.record.agent_id} (sample {audited.record.sample}) is not what was signed", False
    return "", True


def _is_signed(record: Record, key: Key) -> bool:
    return key.made(Purpose.REPORT, record.data, record.mac)
