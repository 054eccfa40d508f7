"""What agent and manager are told from outside, alike: settings from `.env` and the environment, and signals."""
