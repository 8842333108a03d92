"""The classes that the saved state of an engine consists of."""

from pushsvc.stats.engine import Engine
from pushsvc.stats.ledger import Ledger
from pushsvc.stats.moments import Moments
from pushsvc.stats.pane_counts import CodeCounts, PaneCounts
from pushsvc.stats.panes.column_quantiles import ColumnQuantiles
from pushsvc.stats.panes.column_statistics import ColumnStatistics
from pushsvc.stats.panes.pane_windows import PaneWindows
from pushsvc.stats.panes.quantiles import BITS, NEWEST, Histograms, NewestValues
from pushsvc.stats.panes.two_stack import BLOCK, ColumnMoments, ColumnStacks, TwoStack
from pushsvc.stats.recent.event_buffer import EventBuffer, Horizon, Observations
from pushsvc.stats.recent.recent_windows import RecentWindows
from pushsvc.stats.rows import Rows, TopicRows
from pushsvc.stats.values.dictionary import RANKS, REGISTERS, ValueDictionary
from pushsvc.stats.values.distinct import SHIFT, DistinctCounts
from pushsvc.stats.values.first_last import FirstValues, LastValues
from pushsvc.stats.values.frequent import FrequentValues
from pushsvc.stats.values.pane_values import PaneValues
from pushsvc.stats.values.value_statistics import ValueStatistics
from pushsvc.stats.window import Window

# The meaning of the arrays depends on these constants: a state saved with others is refused.
PARAMETERS = (BLOCK, BITS, NEWEST, REGISTERS, RANKS, SHIFT)

CLASSES: tuple[type, ...] = (
    CodeCounts, ColumnMoments, ColumnQuantiles, ColumnStacks, ColumnStatistics, DistinctCounts, Engine, EventBuffer,
    FirstValues, FrequentValues, Histograms, Horizon, LastValues, Ledger, Moments, NewestValues, Observations,
    PaneCounts, PaneValues, PaneWindows, RecentWindows, Rows, TopicRows, TwoStack, ValueDictionary, ValueStatistics,
    Window,
)  # fmt: skip
