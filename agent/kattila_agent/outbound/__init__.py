"""Everything the agent sends: reports to the manager or a relay, queries to other agents."""
