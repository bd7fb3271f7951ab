"""What is to be scheduled: requests in columns, read from traces or generated."""
