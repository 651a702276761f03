"""Judges that write: what they are asked, how it is kept, and how their answers are read."""
