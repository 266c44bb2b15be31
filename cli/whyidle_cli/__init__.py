"""The whyidle command line."""
