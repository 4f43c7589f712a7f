"""The Twilio API: requests, pacing, retries, pages, decoding. Schedule: reading."""
