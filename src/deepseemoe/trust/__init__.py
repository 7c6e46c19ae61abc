"""Trust: what the maps find where the truth is known, and where nothing is to be found."""
