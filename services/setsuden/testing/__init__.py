"""Real servers for tests: a NATS server, a Jaeger, their ports and folders."""
