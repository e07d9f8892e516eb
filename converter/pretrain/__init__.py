"""Pretraining of the sensor encoder on generated streams."""
