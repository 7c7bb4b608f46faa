"""What clients could do to need less of the pool: from digests and counts of their requests, never their content."""
