"""The publishing cycle, and the HTML that it writes."""
