"""What the kernel says of this node: one module per source, `read` talks to the system, `parse` is pure."""
