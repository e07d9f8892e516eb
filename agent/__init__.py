"""Redshank: a streaming anomaly agent for the edge."""
