"""Port mapping: a gateway in front of us passes a port of its public address on to ours."""

from __future__ import annotations
