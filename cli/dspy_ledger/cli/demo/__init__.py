"""The demo: a small world of models, programs and data in which everything but the intelligence is real."""
