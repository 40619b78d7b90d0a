"""Hosting of vision-language models."""
