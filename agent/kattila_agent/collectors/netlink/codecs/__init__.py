"""The messages of rtnetlink(7) and generic netlink, in the classes of pyroute2; no other module imports it.

pyroute2 splits a message into attributes and knows their names and types. These modules correct its declarations where
they are wrong, add those that it lacks, and refuse what does not fit: pyroute2 reads past the end of an attribute that
is too short, and cuts one that is too long. tests/agent/collectors/test_codecs.py shows each correction, and fails once
pyroute2 no longer needs it (docs/decisions/0006).
"""
