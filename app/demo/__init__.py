"""The bundled demo: a catalogue of well-known films and synthetic raters."""
