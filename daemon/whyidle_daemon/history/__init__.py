"""What was observed in the last days: recordings under the state directory, and one report over several."""
