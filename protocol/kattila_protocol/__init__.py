"""What agent and manager agree on: pure values and functions, without clock, chance, socket or disk."""
