"""The machine as the operating system shows it: files, clock, programs, CPU time."""
