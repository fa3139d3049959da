"""Test settings."""

from hypothesis import HealthCheck, settings

# Derandomized: the same examples on every run and machine, so that a failure can be repeated.
settings.register_profile(
    "arraynn",
    derandomize=True,
    deadline=None,
    max_examples=120,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("arraynn")
