"""Fine-tuning of the sensor encoder on recorded normal data of the user's own streams."""
