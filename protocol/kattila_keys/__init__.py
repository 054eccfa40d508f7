"""Fetches the pre-shared key from DNS and keeps the key ring on disk, for agent and manager."""
