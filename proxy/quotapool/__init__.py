"""Quotapool: a rate-limiting reverse proxy that pools OpenAI API keys."""

__version__ = "0.1.0"
