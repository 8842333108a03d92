"""What the state of an engine is made of, for freeze.py."""

from __future__ import annotations

from pushsvc.stats.blocks import Blocks
from pushsvc.stats.buckets import Buckets
from pushsvc.stats.codes import CodeCounts
from pushsvc.stats.distinct import SHIFT, Distinct
from pushsvc.stats.ends import Firsts, Lasts
from pushsvc.stats.engine import Both
from pushsvc.stats.figures import Figures
from pushsvc.stats.fold import BLOCK, Fold, Part
from pushsvc.stats.frequent import Frequent
from pushsvc.stats.ledger import Ledger
from pushsvc.stats.moments import Moments
from pushsvc.stats.quantiles import BITS, NEWEST, Histograms, Newest
from pushsvc.stats.recent import Recent
from pushsvc.stats.rolling import Rolling
from pushsvc.stats.rows import Rows, TopicRows
from pushsvc.stats.tally import Tally
from pushsvc.stats.tape import Cells, Reach, Tape
from pushsvc.stats.values import Values
from pushsvc.stats.vocabulary import RANKS, REGISTERS, Vocabulary
from pushsvc.stats.wanted import Wanted
from pushsvc.stats.window import Window

FORM = (BLOCK, BITS, NEWEST, REGISTERS, RANKS, SHIFT)
"""Numbers that the meaning of the arrays depends on."""

CLASSES: tuple[type, ...] = (
    Blocks, Both, Buckets, Cells, CodeCounts, Distinct, Figures, Firsts, Fold, Frequent, Histograms, Lasts, Ledger,
    Moments, Newest, Part, Reach, Recent, Rolling, Rows, Tally, Tape, TopicRows, Values, Vocabulary, Wanted, Window,
)  # fmt: skip
