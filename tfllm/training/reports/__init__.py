"""Reports on runs: charts and a comparison, as a picture and as a page."""
