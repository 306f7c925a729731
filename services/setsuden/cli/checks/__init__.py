"""What ``doctor`` looks at. Everything is read through a :class:`Machine`, so tests bring one."""
