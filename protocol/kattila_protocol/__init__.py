"""The protocol between agent and manager: pure values and functions, without clock, randomness, socket or disk."""
