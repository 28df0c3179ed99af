"""What the network of this machine is like, and that it changed."""
