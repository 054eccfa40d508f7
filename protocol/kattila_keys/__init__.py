"""Where the pre-shared key comes from and how it is kept: the I/O that agent and manager share."""
