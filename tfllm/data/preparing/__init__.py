"""From records to shards: the preparation of each kind of record."""
