"""What Prometheus may ask: sums by workload that only grow, gauges of now, and the daemon's own cost."""
