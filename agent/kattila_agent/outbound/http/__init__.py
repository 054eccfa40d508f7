"""The HTTP client: names to addresses, connections, and requests to the manager and to other agents."""
