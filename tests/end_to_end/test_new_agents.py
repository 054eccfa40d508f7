"""An agent that has to wait, because there are many new ones, loses nothing."""

from __future__ import annotations

from pathlib import Path

from kattila_protocol.signing import Key
from support.agent_folder import PSK, dead_dns, keep_ring, ring_of
from support.agent_process import running_daemon
from support.manager import now_ms, running_manager
from support.reports import node, report, sealed
from support.waiting import wait_for

OLDER = 4


def test_an_agent_that_has_to_wait_delivers_every_sample_later(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    keep_ring(tmp_path / "agent", PSK)
    # A quarter of a minute for each new agent, and the first minute is used up.
    limited = running_manager(tmp_path, ring=ring_of(PSK), NEW_AGENTS_PER_MINUTE=str(OLDER))
    with limited as manager, dead_dns() as dns:
        for number in range(1, 1 + OLDER):
            sent = sealed(report(node(number), 1, now_ms()), Key.from_psk(PSK))
            assert manager.post(sent).status == 200
        settings = dns | {"MANAGER_URL": f"http://127.0.0.1:{manager.port}", "INTERVAL": "1"}
        with running_daemon(tmp_path / "agent", **settings) as daemon:
            daemon.wait_for_log("not registered, reporting anyway: there were 4 new agents within a minute")
            stored = (
                "SELECT sample FROM reports JOIN agents ON ref = agent_ref WHERE hostname NOT LIKE 'node-%' ORDER BY 1"
            )
            wait_for(lambda: len(manager.rows(stored)) > 20, lambda: f"its reports:\n{daemon.log}")
        samples = [sample for (sample,) in manager.rows(stored)]
        refused = manager.rows("SELECT agent_id, count FROM refusals WHERE kind = 'too_many_agents'")
    assert samples == list(range(1, 1 + len(samples)))
    [(counted_for, times)] = refused
    assert counted_for == ""
    assert times >= 2
