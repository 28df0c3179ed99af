"""Relays: servers that pass packets between endpoints which cannot reach each other.

`iroh_fast.relay.server.RelayServer` is a relay to embed or to run by
``python -m iroh_fast relay``; it needs the extra ``relay``.
"""
