"""The command line: composes producer, projector and API into commands."""
