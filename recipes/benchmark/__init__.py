"""Instruments of `python recipes/benchmark`: tasks, their time, operations and memory; contenders; models."""
