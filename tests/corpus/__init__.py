"""Small programs that know their own truth, and the runner that holds whyidle against them.

``python -m tests.corpus [NAME ...]`` (``make accuracy``) runs each program of ``programs/`` under ``whyidle
run --json`` beside a server that holds its answers (``server.py``). A program says in ``EXPECT`` what whyidle
must find, and while it runs it measures its own waits (``truth.py``). ``compare.py`` is the judge.

To add a program: a file in ``programs/`` with ``EXPECT`` (see ``expect.py``) and ``truth.waiting(...)``
around every wait that it means to do.
"""
