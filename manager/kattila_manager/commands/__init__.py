"""What an operator runs: one module for each group of commands, from checked settings to an exit code."""
