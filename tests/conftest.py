"""Settings of the whole suite: how much hypothesis tries."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

# The deadline is off: a busy machine must not fail a test.
settings.register_profile(
    "dev",
    max_examples=50,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
# The same examples in every run, so that a red one is about the change under test.
settings.register_profile("ci", settings.get_profile("dev"), max_examples=200, derandomize=True)
settings.register_profile("nightly", settings.get_profile("dev"), max_examples=5000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "dev"))
