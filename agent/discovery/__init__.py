"""From messages that were heard to a proposed configuration: pure, in bounded memory. `agent/discover.py` listens."""
