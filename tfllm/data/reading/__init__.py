"""From files to records: find files, read their records, and interpret them."""
