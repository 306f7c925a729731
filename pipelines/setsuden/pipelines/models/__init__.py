"""Running a model: trial, session, thread or process, limits, and what it cost."""
