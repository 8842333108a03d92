"""The allocator of Python's small objects in web processes.

That of CPython keeps an arena of a megabyte as long as one object in it is used: after windows of 90,000 rows up to
140 MB were free, and kept. mimalloc returns the pages of an arena, and takes no longer. CPython has it since 3.13.
"""

import sys
import sysconfig
from collections.abc import Mapping

_VARIABLE = "PYTHONMALLOC"


def allocator_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that choose the allocator of a child; none if the environment chooses it.

    Only a Python that was built with mimalloc may get its name: others exit at their start.
    """
    is_chosen = environment.get(_VARIABLE) or sys.flags.dev_mode
    return {_VARIABLE: "mimalloc"} if sysconfig.get_config_var("WITH_MIMALLOC") and not is_chosen else {}
