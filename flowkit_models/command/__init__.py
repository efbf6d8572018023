"""The command `flowkit`."""
