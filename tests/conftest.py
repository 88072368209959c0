"""Settings for all tests."""

from hypothesis import HealthCheck, settings

# Definitions and scripts that need torch; their results are stored and tested.
collect_ignore = ["architectures.py", "data"]

# How long a draw takes depends on what else the machine does, and no test is about that.
settings.register_profile("shared machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("shared machine")
