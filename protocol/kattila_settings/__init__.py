"""Settings from `.env` and the environment, Unix signals, and failures in loops: shared by agent and manager."""
