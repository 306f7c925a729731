"""What meters wrote: rows read from disk, checked, and folded into sums per meter."""
