"""Everything `setsuden demo` starts, drives and reports."""
