"""How hard tests try that could go on for ever: a little while one works, much in CI (PUSHSVC_TEST_EXAMPLES=100)."""

import os

EXAMPLES = int(os.environ.get("PUSHSVC_TEST_EXAMPLES", "2"))


def rounds(most: int) -> int:
    """Return how many of ``most`` rounds to go: all with 100 examples, some with fewer."""
    return max(5, min(most, most * EXAMPLES // 100))
