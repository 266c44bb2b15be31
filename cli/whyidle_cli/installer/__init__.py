"""Puts whyidle on a host as a service, and takes it off again without a trace."""
