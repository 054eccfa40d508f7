"""Who on this node's tunnels is an agent, and how far from the manager.

`addresses` says where one may answer, `asking` asks there, `directory` remembers what was said and when to ask again.
None of them knows what an agent that was found is good for (delivery).
"""

from kattila_agent.outbound.discovery.addresses import candidates, unread
from kattila_agent.outbound.discovery.directory import Directory, Relay
from kattila_agent.outbound.discovery.queries import Discoverer, Get, ask, over_http, url_of

__all__ = ["Directory", "Discoverer", "Get", "Relay", "ask", "candidates", "over_http", "unread", "url_of"]
