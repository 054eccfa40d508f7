"""Migration, backups, restore, retention, and the audit of stored reports."""
