"""A whole unlearning story on fictitious authors, small enough for a laptop."""
