"""The article's claims, each run for real and measured by whyidle: memory, context, closing table."""
