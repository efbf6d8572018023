"""SRFlow."""
