"""Computes and waits for nothing."""

import truth

EXPECT = {"findings": [], "quick": True}

truth.cpu_for(1.0)
truth.own_cpu()
