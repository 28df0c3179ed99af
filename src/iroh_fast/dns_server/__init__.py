"""The server that endpoints publish their addresses to, and that answers for them over DNS."""
