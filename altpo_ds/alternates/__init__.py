"""The model's own plausible answers: prompts, sampling, acceptance, provenance and quality."""
