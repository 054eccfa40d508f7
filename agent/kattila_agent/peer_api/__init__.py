"""The HTTP API on port 5087 that other agents use."""
