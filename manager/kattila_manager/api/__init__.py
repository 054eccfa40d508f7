"""The HTTP API for readers and administrators, in Bottle."""
