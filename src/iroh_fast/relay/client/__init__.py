"""The relays that an endpoint uses."""
