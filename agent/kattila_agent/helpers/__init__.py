"""Programs that systemd starts with more privilege than the agent has."""
