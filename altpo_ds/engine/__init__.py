"""The one room that imports deepspeed: distributed set-up, models, ZeRO engines, checkpoints, export, generation."""
