"""The converter: makes encoder bundles that the agent loads."""
