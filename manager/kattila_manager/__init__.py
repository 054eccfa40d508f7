"""The manager: verifies and stores reports, and publishes pages from them."""
