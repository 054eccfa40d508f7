"""What stands in front of the agent in the one file: how it starts, and where its modules are kept."""
