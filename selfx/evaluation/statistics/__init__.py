"""Numbers with their doubt: intervals by cluster, paired tests, power, seeds, calibration."""
