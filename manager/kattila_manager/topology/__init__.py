"""Which agents report, what joins them, and what happened to them. Pure."""
