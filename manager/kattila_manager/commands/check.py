"""`check`: checks settings, DNS, keys, the database, and every report in it.

Later checks build on earlier ones. Each reports what it checked, and the problems that it found.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

from kattila_keys.dns_server import DnsError
from kattila_keys.ring_file import RingFile, RingFileError
from kattila_manager import compose, wording
from kattila_manager.commands.errors import Say
from kattila_manager.config import Config
from kattila_manager.records import Record
from kattila_manager.store.admin import auditing
from kattila_manager.store.admin.auditing import Audit, Audited
from kattila_manager.store.database import DatabaseUnusableError
from kattila_manager.store.store import Store, open_existing
from kattila_protocol.ring import Ring
from kattila_protocol.signing import Key, Purpose, fingerprint
from kattila_protocol.txt import TxtError, select_psk
from kattila_settings.settings import ConfigError

_MOST_SHOWN = 10
# A few seconds of work.
_PROGRESS_REPORTS = 20_000


@dataclass(slots=True)
class CheckResult:
    """The result of one check: a description of what it `checked`, and its problems."""

    checked: str
    problems: list[str] = field(default_factory=list)


def run(config: Config, say: Say, progress: Say) -> int:
    """Run all checks; return 1 if there is a problem. `progress` gets a line now and then while reports are read."""
    ring, ring_found = _ring(config)
    is_ok = True
    for name, found in (
        ("settings", CheckResult(f"database {config.database}, pages {config.pages_dir}")),
        ("DNS", _dns(config, ring)),
        ("key ring", ring_found),
        *_database(config, ring, progress),
    ):
        is_ok &= not found.problems
        _show(name, found, say)
    return 0 if is_ok else 1


def _show(name: str, found: CheckResult, say: Say) -> None:
    say(f"{'WRONG' if found.problems else 'ok':5}  {name}: {found.checked}")
    for problem in found.problems[:_MOST_SHOWN]:
        say(f"       - {problem}")
    if len(found.problems) > _MOST_SHOWN:
        say(f"       - and {len(found.problems) - _MOST_SHOWN:,} more")


def _ring(config: Config) -> tuple[Ring, CheckResult]:
    try:
        ring = RingFile(config.ring_file).read().ring
    except RingFileError as error:
        return Ring(), CheckResult(str(config.ring_file), [str(error)])
    if not ring.entries:
        return ring, CheckResult(str(config.ring_file), ["the ring has no key: run 'kattila-manager refresh-key'"])
    names = ", then ".join(entry.key.fingerprint for entry in ring.entries)
    return ring, CheckResult(f"{config.ring_file} holds {names}")


def _dns(config: Config, ring: Ring) -> CheckResult:
    try:
        current = fingerprint(select_psk(compose.make_query(config)()))
    except (ConfigError, DnsError, TxtError) as error:
        return CheckResult(config.dns or "not set", [str(error)])
    # `_ring` reports a ring without a key.
    is_new = bool(ring.entries) and current != ring.entries[0].key.fingerprint
    note = "; the ring has another current key: run 'kattila-manager refresh-key'" if is_new else ""
    return CheckResult(f"{config.dns} holds the key {current}{note}")


def _database(config: Config, ring: Ring, progress: Say) -> Iterator[tuple[str, CheckResult]]:
    try:
        store = open_existing(config.database)
    except DatabaseUnusableError as error:
        yield "database", CheckResult(str(config.database), [str(error)])
        return
    with closing(store):
        yield "database", _integrity(store)
        yield "reports", _reports(store, ring, progress)


def _integrity(store: Store) -> CheckResult:
    checked = f"integrity of {store.path}"
    try:
        return CheckResult(checked, store.read(auditing.integrity))
    except DatabaseUnusableError as error:
        return CheckResult(checked, [str(error)])


@dataclass(slots=True)
class _Tally:
    """Counts and problems of the reports read so far."""

    read: int = 0
    verified: int = 0
    unknown: int = 0
    problems: list[str] = field(default_factory=list)

    def result(self) -> CheckResult:
        old = f", {self.unknown:,} signed with a key that is no longer in the ring" if self.unknown else ""
        read = wording.plural(self.read, "report")
        return CheckResult(f"{read} read, {self.verified:,} MACs verified{old}", self.problems)


def _reports(store: Store, ring: Ring, progress: Say) -> CheckResult:
    keys = {entry.key.fingerprint: entry.key for entry in ring.entries}
    tally = _Tally()
    try:
        total = store.read(auditing.report_count)
        for audited in _audit(store):
            _count(tally, audited, keys)
            if tally.read % _PROGRESS_REPORTS == 0:
                progress(f"{tally.read:,} of {total:,} reports read")
    except DatabaseUnusableError as error:
        tally.problems.append(f"after {tally.read:,} reports: {error}")
    return tally.result()


def _audit(store: Store) -> Iterator[Audited]:
    audit = Audit()
    while found := store.read(audit.next_slice):
        yield from found


def _count(tally: _Tally, audited: Audited, keys: dict[str, Key]) -> None:
    record = audited.record
    tally.read += 1
    if record is None:
        tally.problems.append(f"report {audited.report_id} {audited.problem}")
    elif record.fingerprint not in keys:
        tally.unknown += 1
    elif _is_signed(record, keys[record.fingerprint]):
        tally.verified += 1
    else:
        whose = f"report {audited.report_id} of {record.agent_id} (sample {record.sample})"
        tally.problems.append(f"{whose} does not match its MAC")


def _is_signed(record: Record, key: Key) -> bool:
    return key.matches(Purpose.REPORT, record.data, record.mac)
