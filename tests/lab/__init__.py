"""Emulated links: a model in virtual time, and two network namespaces with that model between them."""
