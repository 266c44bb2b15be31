"""What daemon, agent and CLI exchange: records, codec, report schema.

``records`` and ``kinds`` say what is exchanged, ``codec`` how it becomes bytes, ``client`` is the blocking
side of a connection, ``report`` the shape of the report. SCHEMA.md says the same for other languages.
"""
