"""Reports: the content of run folders as one self-contained page."""
