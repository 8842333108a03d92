"""How hard to search: what may be searched for ever is searched a little while one works, and much in CI."""

from hypothesis import HealthCheck, settings

from support.effort import EXAMPLES

# How long an example takes says nothing.
settings.register_profile(
    "pushsvc",
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
settings.load_profile("pushsvc")
