"""The agent: reads its node, signs a report and pushes it to the manager."""
