"""Rows to batches: sources, validation, chat tokenization, prefix trees, resumable sampling."""
