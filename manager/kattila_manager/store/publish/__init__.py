"""What the publisher writes: alarms, edges and interfaces."""
