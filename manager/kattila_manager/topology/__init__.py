"""States, connections and histories of agents, derived from their reports. Pure."""
