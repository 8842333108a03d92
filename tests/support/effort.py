"""How many examples searching tests try: few in daily work, many in CI (PUSHSVC_TEST_EXAMPLES=100)."""

import os

EXAMPLES = int(os.environ.get("PUSHSVC_TEST_EXAMPLES", "2"))


def rounds(most: int) -> int:
    """Return how many of ``most`` rounds to run: all with 100 examples, at least five with fewer."""
    return max(5, min(most, most * EXAMPLES // 100))
