"""One machine: processes, cores, memory, signals, the terminal."""
