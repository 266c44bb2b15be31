"""Finds what is worth observing, and observes it without being asked."""
