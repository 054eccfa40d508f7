"""Where the pre-shared key comes from and how it is kept: the one piece of I/O that agent and manager share."""
