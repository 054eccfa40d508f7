"""Start-up code of the agent's single file: how it starts, and how it loads modules from the zip."""
