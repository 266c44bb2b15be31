"""GPUs: reading them (``nvml``, ``drm``, ``sampler``) and what is made of it (``spans``, ``devices``)."""
