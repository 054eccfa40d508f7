"""A fleet in one process: real agents and the real manager, over a wire and clocks that a test holds in its hand."""
