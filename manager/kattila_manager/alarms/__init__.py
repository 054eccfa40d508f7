"""Which alarms open and close. Pure."""
