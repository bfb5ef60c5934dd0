"""Small models, data, records and loops that tests share."""
