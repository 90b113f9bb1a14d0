"""The process around a run: devices, other processes, signals, compilation, locks and files."""
