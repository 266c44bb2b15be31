"""The whyidle daemon: kernel events in, attribution, findings and reports out."""
