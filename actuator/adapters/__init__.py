"""The real ends of the ports. Imported by the entry point only."""
