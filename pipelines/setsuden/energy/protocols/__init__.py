"""How sources outside the kernel's files are spoken to: HTTP, MQTT, UNIX sockets, PMU events."""
