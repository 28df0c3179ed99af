"""Emulated links: a model in virtual time, and two network namespaces with that model between them."""

from tests.lab.lab import LinkLab
from tests.lab.link import Bursts, LabStats, LinkConfig, LinkStats, Policer
from tests.lab.namespaces import LabError, missing

__all__ = [
    "Bursts",
    "LabError",
    "LabStats",
    "LinkConfig",
    "LinkLab",
    "LinkStats",
    "Policer",
    "missing",
]
