"""Spans read back: from files, spools and Jaeger into trees, findings, waterfalls and pages."""
