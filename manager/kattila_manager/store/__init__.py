"""The only SQL of the manager: schema, filing with group commit, snapshots, alarms, retention."""
