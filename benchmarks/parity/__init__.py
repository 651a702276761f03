"""Comparisons with other programs' own code, which is not part of prefrep and has to be there already."""
