"""Address lookup on the local network, as iroh's does it over mDNS."""
