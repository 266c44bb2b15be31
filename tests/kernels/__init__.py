"""The kernel matrix: the probe tests in virtual machines, one for each kernel (``make kernels``).

``packages`` gets Debian's kernels, ``initramfs`` makes what starts them, ``machine`` runs one, ``guest`` is
what runs inside, ``rows`` says which tests answer which question, ``table`` makes README.md's table of
``results.json``.
"""
