"""Statistics of labels and value vectors: resampling, agreement, classification, calibration, structure, probes."""
