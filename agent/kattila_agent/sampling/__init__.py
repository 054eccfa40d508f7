"""One measurement: run all collectors, and cut the result until it fits into a report."""
