"""The report as one HTML page: plots in SVG, nothing fetched, no script."""
