"""What whyidle costs and how exact it is, measured beside its peers in one run.

``python -m benchmarks`` (or ``make bench``) prints the tables and writes them into RESULTS.md, the most
important ones into README.md; give names to run some only. Absolute times vary between machines: what counts
are the ratios, taken from runs that alternate, median of several.
"""
