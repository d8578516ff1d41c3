"""What the figures are held against, run in the same minute on the same core."""
