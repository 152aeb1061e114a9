"""Which technique a device's budget calls for: candidates are made and measured, and the best one inside is given."""
