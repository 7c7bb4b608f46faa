"""Quotapool: a rate-limiting reverse proxy that pools OpenAI API keys."""

from quotapool import build as build  # first: it looks whether what is compiled is up to date

__version__ = "0.1.0"
