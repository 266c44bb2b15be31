"""The whyidle command line: one module per subcommand in ``commands``, what they show in ``render``.

It knows ``whyidle_wire`` alone. The daemon and its doctor are other processes.
"""
