"""What is told from the code itself: docs/configuration.md, docs/metrics.md and the manual pages."""
