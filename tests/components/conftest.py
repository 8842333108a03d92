from __future__ import annotations

from pathlib import Path

import pytest

from pushsvc.broker.broker import Broker
from support.components import Site
from support.stack import Stack


@pytest.fixture
def site(stack: Stack, broker: Broker, tmp_path: Path) -> Site:
    return Site(stack, broker, tmp_path)
