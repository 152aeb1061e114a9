"""What the figures of every kind of task share: intervals by bootstrap over groups, calibration."""
