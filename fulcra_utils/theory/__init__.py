"""Value theories, targets, the distance between them, and surveys of people."""
