"""Every HTML page: Jinja2 templates, one style sheet, and the view data they are rendered from."""
