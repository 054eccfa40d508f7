"""Programs that systemd starts with privileges that the agent does not have."""
