"""Which alarms open, continue and close. Pure."""
