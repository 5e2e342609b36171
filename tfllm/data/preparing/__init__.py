"""From records to shards: what `prepare` does with each kind of record."""
