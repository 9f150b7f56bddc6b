"""What the pipeline costs beside what it must cost: measurements that end in a record."""
