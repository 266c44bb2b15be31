"""Recordings: what an observation was told, kept in a file, and the same report from it later.

``records.py`` lists what is kept (append-only), ``encoding.py`` and ``decoding.py`` turn it into bytes and
back, ``blocks.py`` frames them, ``output.py`` owns the file, ``recorder.py`` and ``reader.py`` are the two
ends. ``FORMAT.md`` has the format.
"""
