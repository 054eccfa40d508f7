"""Filing reports: write transactions of the server."""
