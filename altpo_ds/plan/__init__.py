"""Will a run fit, and how fast: predicted from the configuration alone, no weights read."""
