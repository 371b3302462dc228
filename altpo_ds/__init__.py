"""altpo_ds: unlearning by alternate preference optimization under DeepSpeed ZeRO-3."""
