"""Results for display in a terminal, or in a file with redirected output.

1. First one sentence with the verdict, which is not misleading on its own.
2. Then groups, then what is pinned and why, then what was measured, before and after; then notes.
3. Of long lists only the groups that cost most are shown, in graph order, and how many are not; ``verbose`` shows all.
   Names that have no room are shortened, see ``names``; ``verbose`` folds them, so that they are all there.
"""

from onnxmerge.report.terminal.compared import show_account, show_side_by_side, show_tradeoff
from onnxmerge.report.terminal.inspection import show_inspection
from onnxmerge.report.terminal.lines import ROWS
from onnxmerge.report.terminal.quantized import show_quantization

__all__ = ["ROWS", "show_account", "show_inspection", "show_quantization", "show_side_by_side", "show_tradeoff"]
