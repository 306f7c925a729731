"""A window's joules, each in exactly one bucket, and how far each can be off: pure arithmetic."""
