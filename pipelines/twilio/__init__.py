"""The API: requests, pacing, retries, pages, decoding. Knows no schedule and no warehouse."""
