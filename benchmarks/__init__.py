"""What recipes/benchmark.py measures: contenders, an interleaving stopwatch, memory, operations, graph breaks, bars."""
