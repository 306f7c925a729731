"""The report for a terminal, and in other people's formats."""
