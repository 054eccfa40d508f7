"""The operator's commands, from checked settings to an exit code."""
