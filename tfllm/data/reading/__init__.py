"""From files to records: which files there are, and what the records in them say."""
