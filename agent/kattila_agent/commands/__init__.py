"""What the agent does once, on the command line: one module per flag."""
