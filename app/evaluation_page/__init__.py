"""An evaluation as one self-contained page: what was asked, plots, every table, how to repeat it."""
