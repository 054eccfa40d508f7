"""A simulated fleet for tests, the demo and benchmarks: a development tool that is not installed on nodes."""
