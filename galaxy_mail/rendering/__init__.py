"""Templates become mail: the catalog of a folder, checked whole, and its renderer."""
