"""What the agent does once, on the command line: one module per flag.

Several of them use `measuring`, which takes one measurement, and `ring`, which returns the keys.
"""
