"""The report of a run, shown in a terminal or written as data or a page."""
