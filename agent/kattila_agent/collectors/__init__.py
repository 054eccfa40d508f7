"""What this node's kernel reports: one module per source. `read` talks to the system, `parse` is pure."""
