"""Settings from `.env` and the environment, and Unix signals: shared by agent and manager."""
