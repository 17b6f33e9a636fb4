"""Long jobs over a file: split over shards, resumed after a kill, merged, and run by Ray."""
