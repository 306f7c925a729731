"""How sources outside the kernel's files are spoken to: HTTP and MQTT."""
