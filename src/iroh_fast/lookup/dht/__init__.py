"""The Mainline DHT of BitTorrent: a read-only node, and address lookup by signed packets in it.

From the bottom: `krpc` messages, `ids` distances and places, `routing` nodes that answered, `search`
one iterative search, `core` tasks and time. These know no socket, clock and loop. `client` does,
`items` and `service` know what is stored.
"""
