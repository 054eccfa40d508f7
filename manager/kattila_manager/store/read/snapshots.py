"""Reads everything that one rendering needs, in one consistent state of the database."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from sqlalchemy import Connection
from sqlalchemy.exc import OperationalError

from kattila_manager.alarms.alarm_rules import AlarmKind
from kattila_manager.records import Agent, ReportSummary, Snapshot
from kattila_manager.store.bodies import data_of
from kattila_manager.store.decoding import decode
from kattila_manager.store.interface_rows import digest, rows_of
from kattila_manager.store.read import queries, report_history
from kattila_protocol.report import Report

_CLOSED_SHOWN_MS = 24 * 60 * 60 * 1000
_MOST_CLOSED_SHOWN = 200


def read_snapshot(connection: Connection, known: Mapping[int, ReportSummary], now: int) -> Snapshot:
    """Return the snapshot; `known` are the reports of an earlier one, which are not decoded again."""
    fleet = queries.all_agents(connection)
    reports, damaged = _newest_reports(connection, fleet, known)
    return Snapshot(
        agents=fleet,
        reports=reports,
        damaged=damaged,
        refusals=queries.refusal_counts(connection),
        listening=queries.listening(connection),
        open_alarms=queries.open_alarms(connection),
        closed_alarms=queries.alarms_closed_since(connection, now - _CLOSED_SHOWN_MS, _MOST_CLOSED_SHOWN),
        counters=queries.alarm_counters(connection),
        edges=queries.all_edges(connection),
        late=report_history.late_during(connection, AlarmKind.AGENT_SILENT, now - _CLOSED_SHOWN_MS),
    )


def summary_of(report: Report) -> ReportSummary:
    """Return what the publisher keeps of a report."""
    rows = rows_of(report)
    labels = report.telemetry.system.labels if report.telemetry.system else {}
    return ReportSummary(labels, len(rows), digest(rows))


def _newest_reports(
    connection: Connection, fleet: Iterable[Agent], known: Mapping[int, ReportSummary]
) -> tuple[dict[int, ReportSummary], tuple[int, ...]]:
    reports: dict[int, ReportSummary] = {}
    damaged: list[int] = []
    for report_id in (agent.latest_report_id for agent in fleet if agent.latest_report_id is not None):
        try:
            report = known.get(report_id) or summary_of(decode(data_of(connection, report_id)))
        except LookupError:
            # It was pruned, because its agent has been silent for long.
            continue
        except OperationalError:
            raise
        except Exception:
            # Whatever is wrong with one row, the other agents are published.
            damaged.append(report_id)
        else:
            reports[report_id] = report
    return reports, tuple(damaged)
