"""What is stored and how: key names, encodings, and the pages that operators read."""
