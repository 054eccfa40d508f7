"""Queries, as frozen values."""
