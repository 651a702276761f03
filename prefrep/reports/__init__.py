"""Reports: what run folders hold, as one page that needs nothing else."""
