"""Seconds after which something is taken for hung, far above the slowest honest run."""

PROCESS_HANGS = 240  # a program with a framework, started by a test
TEST_HANGS = 300  # a test; later than a process, so that the process is named
