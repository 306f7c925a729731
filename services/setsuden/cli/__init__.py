"""`setsuden`: a thin, lazy command tree over the rest. Imports nothing until a command runs."""
