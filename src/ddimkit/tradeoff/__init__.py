"""What fewer steps cost and gain: the sweep, its results, report and charts."""
