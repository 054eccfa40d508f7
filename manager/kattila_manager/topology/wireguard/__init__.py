"""The state of WireGuard tunnels, judged from the reports of both ends. Pure."""
