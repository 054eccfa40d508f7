"""A report's bytes to its signed answer, in the server's workers."""
