"""Understudy's service against this machine's limit and against the servers of the field, in one run."""
