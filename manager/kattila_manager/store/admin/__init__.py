"""Backups, restore, retention, and the audit of stored reports."""
