"""What measures ingest, labeling and selection."""
