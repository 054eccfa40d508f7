"""What the server writes: reports, agents, refusal counters and heartbeats."""
