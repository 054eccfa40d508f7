"""Backups, restoring, retention and the audit of stored reports."""
