"""Discovery of sibling agents behind this node's tunnels, and of their distance to the manager.

`addresses` lists where siblings may answer, `queries` asks them, and `directory` remembers the answers and schedules
the next queries.
"""

from kattila_agent.outbound.discovery.addresses import candidates
from kattila_agent.outbound.discovery.directory import Directory, Relay
from kattila_agent.outbound.discovery.queries import Discoverer, Get, query

__all__ = ["Directory", "Discoverer", "Get", "Relay", "candidates", "query"]
