"""Queries that return frozen values."""
