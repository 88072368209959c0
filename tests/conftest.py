"""What pytest does not collect: definitions and scripts that need torch; their results are stored and tested."""

collect_ignore = ["architectures.py", "data"]
