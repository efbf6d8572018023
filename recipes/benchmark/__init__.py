"""Instruments of `python recipes/benchmark`: contenders, an interleaving stopwatch, memory, operations, bars."""
