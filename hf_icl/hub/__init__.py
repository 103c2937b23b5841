"""Runs, data sets and metrics on the Hugging Face Hub."""
