"""The same flows in flowkit, nflows, normflows and FrEIA: what docs/peers.md shows, and benchmarks measure."""
