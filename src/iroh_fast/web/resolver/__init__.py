"""Names to addresses and texts, without threads.

The resolver of the operating system blocks: asked through asyncio it holds a thread for up to
half a minute, and a program waits for its threads when it ends. It knows no TXT records either.
"""

from .config import Fallback, NameserverConfig
from .resolver import DnsResolver, Resolver, as_resolver

__all__ = ["DnsResolver", "Fallback", "NameserverConfig", "Resolver", "as_resolver"]
