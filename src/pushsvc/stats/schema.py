"""The classes that the saved state of an engine consists of."""

from __future__ import annotations

from pushsvc.stats.codes import CodeCounts
from pushsvc.stats.engine import Both
from pushsvc.stats.ledger import Ledger
from pushsvc.stats.moments import Moments
from pushsvc.stats.panes.blocks import Blocks
from pushsvc.stats.panes.buckets import Buckets
from pushsvc.stats.panes.figures import Figures
from pushsvc.stats.panes.fold import BLOCK, Fold, Part
from pushsvc.stats.panes.quantiles import BITS, NEWEST, Histograms, Newest
from pushsvc.stats.panes.rolling import Rolling
from pushsvc.stats.recent.event_buffer import Cells, Reach, Tape
from pushsvc.stats.recent.recent import Recent
from pushsvc.stats.rows import Rows, TopicRows
from pushsvc.stats.tally import Tally
from pushsvc.stats.values.distinct import SHIFT, Distinct
from pushsvc.stats.values.ends import Firsts, Lasts
from pushsvc.stats.values.frequent import Frequent
from pushsvc.stats.values.values import Values
from pushsvc.stats.values.vocabulary import RANKS, REGISTERS, Vocabulary
from pushsvc.stats.values.wanted import Wanted
from pushsvc.stats.window import Window

PARAMETERS = (BLOCK, BITS, NEWEST, REGISTERS, RANKS, SHIFT)
"""Constants that the meaning of the arrays depends on: a state saved with others is refused."""

CLASSES: tuple[type, ...] = (
    Blocks, Both, Buckets, Cells, CodeCounts, Distinct, Figures, Firsts, Fold, Frequent, Histograms, Lasts, Ledger,
    Moments, Newest, Part, Reach, Recent, Rolling, Rows, Tally, Tape, TopicRows, Values, Vocabulary, Wanted, Window,
)  # fmt: skip
