"""verify-sync: a complete, settled copy of Twilio Verify's attempts in DuckDB."""
