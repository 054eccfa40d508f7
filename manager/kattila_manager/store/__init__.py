"""The only SQL of the manager: schema, filing, snapshots, alarms, retention, backups."""
