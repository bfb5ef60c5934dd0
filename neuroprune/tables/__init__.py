"""Tables of a study: ``runs`` is the tidy one that everything else reads."""
