"""The agent: measures a node, signs the report and sends it to the manager."""

__version__ = "0.1.0"
