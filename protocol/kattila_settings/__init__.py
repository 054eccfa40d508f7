"""Settings from `.env` and the environment, as agent and manager read them alike."""
